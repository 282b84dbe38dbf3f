package house_test

import (
	"go/ast"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const securityPage = "docs/explanation/security.md"

// aTest is the name of a test or a fuzz target, as pages of documentation write it.
var aTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Z0-9]\\w*)`")

// A page that says which test shows something must not go on saying so when the test has gone or has another name.
func TestTheTestsThatPagesNameExist(t *testing.T) {
	tests := allTests(t)
	for _, page := range pages(t) {
		for _, match := range aTest.FindAllStringSubmatch(read(t, page), -1) {
			if !tests[match[1]] {
				t.Errorf("%s names %s, which does not exist", page, match[1])
			}
		}
	}
}

func TestEveryKnownFaultHasATest(t *testing.T) {
	rows := 0
	for line := range strings.Lines(read(t, securityPage)) {
		if !strings.HasPrefix(line, "| CVE-") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || len(aTest.FindAllString(cells[len(cells)-1], -1)) == 0 {
			t.Errorf("%s: a row wants a number, what happened, why not here, and tests: %s", securityPage, line)
		}
	}
	if rows == 0 {
		t.Errorf("%s has no table of known faults", securityPage)
	}
}

// pages are all that is written in Markdown, as paths from the root.
func pages(t *testing.T) (all []string) {
	t.Helper()
	walk := func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
			page, _ := filepath.Rel(root, path)
			all = append(all, page)
		}
		return err
	}
	if err := filepath.WalkDir(filepath.Join(root, "docs"), walk); err != nil {
		t.Fatal(err)
	}
	tops, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range tops {
		all = append(all, filepath.Base(top))
	}
	return all
}

// allTests is the names of all tests and fuzz targets.
func allTests(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	eachFile(t, func(path string, file *ast.File) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				found[f.Name.Name] = true
			}
		}
	})
	return found
}
