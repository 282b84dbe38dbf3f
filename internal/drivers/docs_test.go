package drivers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgserver"
)

// A limit is a feature that we know to differ through weir, and live with for now.
type limit struct {
	driver, feature, mode string
	better                bool   // it gets an answer where straight it gets an error
	why                   string // for docs/drivers.md
}

var limits = []limit{{
	driver: "psycopg 3", feature: "prepared before DDL", mode: "transaction", better: true,
	why: "psycopg 3, prepared before DDL: a statement that was prepared before its table was altered is prepared anew, and answered, where PostgreSQL refuses it " +
		"(0A000, `cached plan must not change result type`). The driver asks what it returns each time it binds it, so it cannot misread the rows.",
}}

// limitOf is the number of the limit that a cell has, if any.
func limitOf(driver, feature, mode string) (int, bool) {
	i := slices.IndexFunc(limits, func(l limit) bool { return l.driver == driver && l.feature == feature && l.mode == mode })
	return i, i >= 0
}

const docsPath = "../../docs/drivers.md"

// checkDocs compares docs/drivers.md with what was found, but for versions: those are of the machine that wrote it.
func checkDocs(t *testing.T, found []finding) {
	t.Helper()
	for i, f := range found {
		if f.version == "" {
			t.Logf("docs/drivers.md is not checked: %s did not run to its end", drivers[i].name)
			return
		}
	}
	text := docs(found)
	if t.Failed() {
		return // not worth writing down
	}
	if *update {
		if err := os.WriteFile(docsPath, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	written, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	if withoutVersions(string(written)) != withoutVersions(text) {
		t.Errorf("%s is not what was found; go test ./internal/drivers -run TestDrivers -update writes it", filepath.Base(docsPath))
	}
}

var versions = regexp.MustCompile(`\b\d+(\.\d+)+\S*|PostgreSQL \d+| +\|`)

func withoutVersions(text string) string { return versions.ReplaceAllString(text, "") }

func docs(found []finding) string {
	var b strings.Builder
	b.WriteString(`# Drivers

<!-- written by: go test ./internal/drivers -run TestDrivers -update -->

Each driver below runs the same program twice, straight to PostgreSQL and through weir, with SCRAM-SHA-256, in two pool
modes. "same" says that it saw the same: every row, type, command tag, notice, error with all its fields, and transaction status.
"–" says that the feature makes no sense in that mode, "better" that it got an answer where straight it got an error, "no" that it
differs otherwise, and the number why. The programs are in
` + "`internal/drivers`" + `.

| driver | version | PostgreSQL |
|---|---|---|
`)
	for i, d := range drivers {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", d.name, found[i].version, serverVersion(d))
	}
	b.WriteString("\n## What each saw\n")
	for i, d := range drivers {
		fmt.Fprintf(&b, "\n### %s\n\n| feature |", d.name)
		for _, m := range modes {
			over := ""
			if m.sslmode == "require" {
				over = ", over TLS"
			}
			fmt.Fprintf(&b, " %s%s |", m.name, over)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(modes)) + "\n")
		for _, feature := range found[i].features {
			fmt.Fprintf(&b, "| %s |", strings.ReplaceAll(feature, "|", `\|`))
			for _, m := range modes {
				fmt.Fprintf(&b, " %s |", found[i].cells[feature][m.name])
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n## Known differences\n\n")
	if len(limits) == 0 {
		b.WriteString("None.\n")
	}
	for i, l := range limits {
		fmt.Fprintf(&b, "%d. %s\n", i+1, l.why)
	}
	b.WriteString(advice)
	return b.String()
}

const advice = `
## What drivers do at connect

- **JDBC** sends its time zone and ` + "`extra_float_digits`" + ` as startup parameters, and then two SETs, which follow it from one server connection
  to the next. With ` + "`assumeMinServerVersion=9.0`" + ` in the URL both are startup parameters, too, and cost nothing.
- **psycopg2** runs ` + "`SET datestyle TO 'ISO'`" + ` when the server reports another style, and nothing otherwise.
- **psycopg 3** sends startup parameters only. It prepares what it runs for the sixth time by the protocol, and gives it up
  by SQL: ` + "`DEALLOCATE`" + ` of the oldest of more than a hundred, and ` + "`DEALLOCATE ALL`" + ` after a rollback.
- **SQLAlchemy** asks each new connection for the type of hstore, and the first one also for the server's version, schema and
  isolation level, and rolls back.
- **Django** sets the time zone by ` + "`set_config`" + ` when the server reports another one, and it follows it from one server connection to
  the next. With ` + "`-c timezone=…`" + ` in the options it is a startup parameter, and costs nothing.
- **TypeORM** asks for the server's version, schema and extensions, and creates "uuid-ossp" when an entity has a generated UUID.
- **postgres.js** asks ` + "`pg_catalog.pg_type`" + ` for array types before the first query (` + "`fetch_types`" + `).
- **node-postgres**, **pgx**, **GORM**, **lib/pq** and **psql** send startup parameters only.
`

// serverVersion is the major version that the driver's PostgreSQL has on this machine.
func serverVersion(d driver) string {
	major, err := pgserver.Major(d.postgresql)
	if err != nil {
		return "–"
	}
	return fmt.Sprint("PostgreSQL ", major)
}
