package house_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/weirproxy/weir"

// allowed is every arrow between our packages: what a package may import besides its tests. Add a row with a new package,
// and an arrow only after a thought about the reverse one: there are no circles, and few arrows.
var allowed = map[string][]string{
	// Nouns that need nobody else. fleet and limiter meet in a function type that limiter declares.
	"auth":      {},
	"breaker":   {},
	"eventloop": {},
	"fleet":     {},
	"limiter":   {},
	"pgwire":    {},

	// What weir.yaml and the plan of a storm have in common.
	"internal/yamlfile": {},

	"pool":           {"eventloop", "pgwire"},
	"upstream":       {"auth"},                                                                         // how SCRAM takes a password
	"config":         {"auth", "breaker", "fleet", "internal/yamlfile", "limiter", "pool", "upstream"}, // their Config structs
	"proxy":          {"breaker", "limiter"},                                                           // what all protocols share
	"proxy/postgres": {"auth", "breaker", "eventloop", "limiter", "pgwire", "pool", "proxy", "proxy/postgres/sqltext", "upstream"},
	"admin":          {"proxy"},

	"proxy/postgres/sqltext": {},

	"cmd/weir": {anything},

	"internal/scram": {"auth"},                                                      // how it takes a password
	"storm":          {"internal/scram", "internal/yamlfile", "pgwire", "upstream"}, // measures us and others from outside

	// Help for tests, benchmarks and the demo.
	"internal/bench":        {"internal/scram", "storm"},
	"internal/certs":        {},
	"internal/drivers":      {},
	"internal/drivers/gorm": {}, // a module of its own
	"internal/golden":       {},
	"internal/house":        {},
	"internal/pgserver":     {"internal/certs"},
	"internal/pgtest":       {"internal/pgserver"},
	"internal/redistest":    {},
	"scripts/testsummary":   {},
}

const anything = "*"

func TestImportsAreThoseOfTheTable(t *testing.T) {
	for name, imports := range ourImports(t) {
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s is not in the table of allowed imports", name)
			continue
		}
		for _, imported := range imports {
			if !slices.Contains(may, imported) && !slices.Contains(may, anything) {
				t.Errorf("%s imports %s, which the table does not allow", name, imported)
			}
		}
	}
}

func TestTableHasNoCircle(t *testing.T) {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, way []string)
	visit = func(name string, way []string) {
		way = append(way, name)
		switch state[name] {
		case done:
			return
		case visiting:
			t.Errorf("circle: %s", strings.Join(way, " → "))
			return
		}
		state[name] = visiting
		for _, next := range allowed[name] {
			if _, known := allowed[next]; !known && next != anything {
				t.Errorf("%s may import %s, which has no row", name, next)
			}
			visit(next, way)
		}
		state[name] = done
	}
	for _, name := range slices.Sorted(maps.Keys(allowed)) {
		visit(name, nil)
	}
}

func TestHouseHasItsRooms(t *testing.T) {
	for _, name := range []string{"cmd", "proxy", "limiter", "breaker", "config", "docs", "go.mod", "Dockerfile"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
}

// root is the module's directory, seen from this one.
const root = "../.."

// ourImports is which of our packages each of them imports, tests left out.
func ourImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	eachImport(t, func(file, imported string) {
		name := packageOf(file)
		if _, ok := imports[name]; !ok {
			imports[name] = nil
		}
		if ours, ok := strings.CutPrefix(imported, module+"/"); ok && !strings.HasSuffix(file, "_test.go") {
			if !slices.Contains(imports[name], ours) {
				imports[name] = append(imports[name], ours)
			}
		}
	})
	if len(imports) < 5 {
		t.Fatalf("found only %v: is %s still the module's directory?", imports, root)
	}
	return imports
}

// packageOf is the package of a file, relative to the module.
func packageOf(file string) string { return path.Dir(filepath.ToSlash(file)) }

// eachImport calls visit for each import of each Go file of the module, and once with "" for each file. The file's name is
// relative to the module.
func eachImport(t *testing.T, visit func(file, imported string)) {
	t.Helper()
	eachFile(t, func(name string, file *ast.File) {
		visit(name, "")
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			visit(name, imported)
		}
	})
}

// eachFile calls visit for each Go file of the module, for all platforms, with its name relative to the module.
func eachFile(t *testing.T, visit func(name string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := entry.Name(); base == "testdata" || base == "node_modules" || strings.HasPrefix(base, ".") && base != ".." {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		visit(relative, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
