package drivers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirproxy/weir/internal/pgserver"
)

// A limit is a difference that we know of and live with. The rest of the feature must be the same.
type limit struct {
	drivers string // names, joined by a comma and a space
	feature string
	mode    string         // "" is any
	differs *regexp.Regexp // what is not compared of the transcript's lines
	why     string         // for docs/drivers.md
}

var limits = []limit{
	{
		drivers: "pgx, pgx with protocol 3.2", feature: "named prepared statements", mode: "transaction",
		differs: regexp.MustCompile(`prepared statement \\"[^"]*\\" already exists`),
		why: "A second Parse of a name that is taken fails with 42P05, as it should, but the message tells the name that the statement " +
			"has on the server connection.",
	},
	{
		drivers: "JDBC", feature: sessionState,
		differs: regexp.MustCompile(`^select current_setting\('timezone'\) as after_discard: .*`),
		why: "RESET and DISCARD ALL go back to what the server connection was opened with, not to the client's own startup parameters " +
			"(JDBC sends the JVM's TimeZone), which weir puts in place with SET.",
	},
}

func (l limit) applies(driver, feature, mode string) bool {
	return l.feature == feature && (l.mode == "" || l.mode == mode) && strings.Contains(", "+l.drivers+", ", ", "+driver+", ")
}

func (l limit) mask(lines []string) []string {
	masked := make([]string, len(lines))
	for i, line := range lines {
		masked[i] = l.differs.ReplaceAllString(line, "…")
	}
	return masked
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
	for i := range limits {
		if !strings.Contains(text, fmt.Sprintf("(%d)", i+1)) {
			t.Errorf("limit %d is one no more: %s", i+1, limits[i].why)
		}
	}
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

Each driver below runs the same program twice, straight to PostgreSQL and through weir, in both pool modes. "same" says that it
saw the same: every row, type, command tag, notice, error (all its fields) and transaction status. "–" says that the feature
makes no sense in that mode. The programs are in ` + "`internal/drivers`" + `.

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
			fmt.Fprintf(&b, " %s |", m.name)
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
	for i, l := range limits {
		fmt.Fprintf(&b, "%d. %s\n", i+1, l.why)
	}
	b.WriteString(advice)
	return b.String()
}

const advice = `
## What drivers do at connect

- **JDBC** sends its time zone and ` + "`extra_float_digits`" + ` as startup parameters, and then, as statements,
  ` + "`SET extra_float_digits = 3`" + ` and ` + "`SET application_name`" + `. In transaction mode whoever has SET something keeps its server
  connection, so that others can not have it. Add ` + "`assumeMinServerVersion=9.0`" + ` to the URL: then both are startup parameters,
  and the connection is shared.
- **psycopg2** sends ` + "`SET datestyle TO 'ISO'`" + ` when the server reports another style, and nothing otherwise.
- **postgres.js** asks ` + "`pg_catalog.pg_type`" + ` for array types before the first query (` + "`fetch_types`" + `).
- **node-postgres**, **pgx**, **lib/pq** and **psql** send startup parameters only.
`

// serverVersion is the major version that the driver's PostgreSQL has on this machine.
func serverVersion(d driver) string {
	dir, err := pgserver.Find(d.postgresql)
	if err != nil {
		return "–"
	}
	if d.postgresql != 0 {
		return fmt.Sprint("PostgreSQL ", d.postgresql)
	}
	return "PostgreSQL " + regexp.MustCompile(`\d*$`).FindString(filepath.Base(filepath.Dir(dir)))
}
