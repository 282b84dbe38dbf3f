// Command testsummary reads what go test -json prints, shows failures in full and everything else as one line a package,
// and ends with "N passed, N failed, N skipped". It exits with 1 when something failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	var s summary
	if err := s.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
	if s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string
	Output     string
}

type summary struct {
	passed, failed, skipped int

	output  map[string][]string // of tests that have not ended, by package and test
	skips   []string
	reasons []string // what failed, to be named again at the end
}

func (s *summary) read(in io.Reader, out io.Writer) error {
	s.output = map[string][]string{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20) // a failing test may have much to say
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // go itself complains in plain text
			continue
		}
		s.take(e, out)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	for _, skip := range s.skips {
		fmt.Fprintln(out, "skipped:", skip)
	}
	for _, reason := range s.reasons {
		fmt.Fprintln(out, "FAILED:", reason)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return nil
}

func (s *summary) take(e event, out io.Writer) {
	name := e.Package + "." + e.Test
	switch e.Action {
	case "output":
		if isNoise(e.Output) {
			return
		}
		if e.Test != "" {
			s.output[name] = append(s.output[name], e.Output)
		} else {
			fmt.Fprint(out, e.Output)
		}
	case "build-output":
		fmt.Fprint(out, e.Output)
	case "build-fail":
		s.fail("build of " + e.ImportPath)
	case "pass", "skip", "fail":
		s.end(e, name, out)
	}
}

func (s *summary) end(e event, name string, out io.Writer) {
	said := s.output[name]
	delete(s.output, name)
	switch {
	case e.Action == "fail" && e.Test == "":
		s.endPackage(e.Package, out)
	case e.Test == "": // a package that passes says so itself
	case e.Action == "pass":
		s.passed++
	case e.Action == "skip":
		s.skipped++
		s.skips = append(s.skips, name+": "+reason(said))
	default:
		fmt.Fprint(out, strings.Join(said, ""))
		s.fail(name)
	}
}

// endPackage shows tests that never ended, for their package died under them.
func (s *summary) endPackage(name string, out io.Writer) {
	blamed := false
	for _, reason := range s.reasons {
		blamed = blamed || strings.HasPrefix(reason, name+".")
	}
	for test, said := range s.output {
		if strings.HasPrefix(test, name+".") {
			fmt.Fprint(out, strings.Join(said, ""))
			delete(s.output, test)
			s.fail(test)
			blamed = true
		}
	}
	if !blamed {
		s.fail(name)
	}
}

func (s *summary) fail(what string) {
	s.failed++
	s.reasons = append(s.reasons, what)
}

// reason is the line in which a skipped test says why.
func reason(said []string) string {
	for _, line := range said {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "---") {
			return text
		}
	}
	return "no reason given"
}

// isNoise tells the lines that say nothing a summary does not.
func isNoise(line string) bool {
	return line == "PASS\n" || line == "FAIL\n" || line == "testing: warning: no tests to run\n" ||
		strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "fuzz: elapsed:") ||
		strings.Contains(line, "[no test files]") || strings.Contains(line, "[no tests to run]")
}
