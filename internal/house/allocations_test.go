package house_test

import (
	"go/ast"
	"strings"
	"testing"
)

// Under the race detector allocations are not what they are without it, so `make test` runs the tests that count them a
// second time, and finds them by name.
func TestTestsThatCountAllocationsSaySo(t *testing.T) {
	eachFile(t, func(name string, file *ast.File) {
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || strings.Contains(fn.Name.Name, "Alloc") {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok && id.Name == "AllocsPerRun" {
					t.Errorf("%s: %s counts allocations: name it Test…Alloc…", name, fn.Name.Name)
				}
				return true
			})
		}
	})
}
