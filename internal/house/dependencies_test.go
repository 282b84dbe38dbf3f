package house_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const dependenciesPage = "docs/explanation/dependencies.md"

func TestEveryDependencyHasItsReason(t *testing.T) {
	required := requires(t)
	rows := dependencyRows(t)
	for name := range direct(t, required) {
		switch rows[name] {
		case required[name]:
		case "":
			t.Errorf("%s has no row in %s", name, dependenciesPage)
		default:
			t.Errorf("%s: %s has %s, go.mod has %s", name, dependenciesPage, rows[name], required[name])
		}
	}
	for name := range rows {
		if required[name] == "" {
			t.Errorf("%s is in %s but in no go.mod", name, dependenciesPage)
		}
	}
}

// requires is go.mod's modules and their versions, and what the drivers' own module asks for by itself. Its pgx is another
// than ours, which has the row.
func requires(t *testing.T) map[string]string {
	t.Helper()
	required := versionsIn(indirect.ReplaceAllString(read(t, "internal/drivers/gorm/go.mod"), ""))
	maps.Copy(required, versionsIn(read(t, "go.mod")))
	return required
}

var indirect = regexp.MustCompile("(?m)^.*// indirect$")

func versionsIn(gomod string) map[string]string {
	versions := map[string]string{}
	for line := range strings.Lines(gomod) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") {
			versions[fields[0]] = fields[1]
		}
	}
	return versions
}

// direct is the modules that our code or tests import; go.mod's "indirect" says the same only after a tidy.
func direct(t *testing.T, required map[string]string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	eachImport(t, func(_, imported string) {
		for name := range required {
			if imported == name || strings.HasPrefix(imported, name+"/") {
				found[name] = true
			}
		}
	})
	return found
}

// row is | `module` | version | reason |.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (v[^ ]+) \\| .{20,} \\|$")

func dependencyRows(t *testing.T) map[string]string {
	t.Helper()
	rows := map[string]string{}
	for _, match := range row.FindAllStringSubmatch(read(t, dependenciesPage), -1) {
		rows[match[1]] = match[2]
	}
	return rows
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
