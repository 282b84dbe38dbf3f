package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const (
		passes   = `{"Action":"pass","Package":"p","Test":"TestGood"}`
		skips    = `{"Action":"output","Package":"p","Test":"TestSkip","Output":"    a_test.go:3: no such server\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"TestSkip"}`
		says     = `{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:9: got 1, want 2\n"}`
		fails    = `{"Action":"fail","Package":"p","Test":"TestBad"}`
		packFail = `{"Action":"fail","Package":"p"}`
		line     = `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}`
	)
	tests := map[string]struct {
		events []string
		want   []string // lines that must be there
		last   string
		hidden string // what must not be there
	}{
		"a package that passes is one line": {
			[]string{passes, line, skips},
			[]string{"ok  \tp\t0.1s", "skipped: p.TestSkip: a_test.go:3: no such server"},
			"1 passed, 0 failed, 1 skipped", "TestGood",
		},
		"a failure is shown in full and named again": {
			[]string{passes, says, fails, packFail},
			[]string{"got 1, want 2", "FAILED: p.TestBad"},
			"1 passed, 1 failed, 0 skipped", "TestGood",
		},
		"a test that dies with its package has failed": {
			[]string{passes, says, packFail},
			[]string{"got 1, want 2", "FAILED: p.TestBad"},
			"1 passed, 1 failed, 0 skipped", "TestGood",
		},
		"a package that fails outside of tests has failed": {
			[]string{passes, packFail}, []string{"FAILED: p"}, "1 passed, 1 failed, 0 skipped", "TestGood",
		},
		"a package that does not build has failed": {
			[]string{`{"Action":"build-output","ImportPath":"p","Output":"p.go:1: undefined: x\n"}`, `{"Action":"build-fail","ImportPath":"p"}`},
			[]string{"p.go:1: undefined: x", "FAILED: build of p"},
			"0 passed, 1 failed, 0 skipped", "",
		},
		"plain text passes through": {
			[]string{"go: cannot find main module"}, []string{"go: cannot find main module"}, "0 passed, 0 failed, 0 skipped", "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var s summary
			var out strings.Builder
			if err := s.read(strings.NewReader(strings.Join(test.events, "\n")), &out); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing", want)
				}
			}
			if lines[len(lines)-1] != test.last {
				t.Errorf("ends with %q, want %q", lines[len(lines)-1], test.last)
			}
			if test.hidden != "" && strings.Contains(out.String(), test.hidden) {
				t.Errorf("%q is noise", test.hidden)
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}
