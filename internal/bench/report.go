package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/weirproxy/weir/storm"
)

// results is what a run has found out, as far as it came.
type results struct {
	about    [][2]string // what was run, on what
	beside   string      // what the column beside the targets is (noise floor)
	targets  []verdict
	sections []section
	failures []string
	marks    marks // between which lines of a document they go (those of make bench)
}

// verdict is one target and how the run stands to it.
type verdict struct {
	what, want, got, noise string
	met                    bool
}

// section is one table, with charts above it.
type section struct {
	title  string
	note   string
	charts []chart
	header []string
	rows   [][]string
}

// chart is a picture in a file beside the document.
type chart struct {
	file string
	storm.Picture
}

func (r *results) section(s section) { r.sections = append(r.sections, s) }

// atMost records a target that weir's figure must not exceed; a figure that was not measured is left out.
func (r *results) atMost(what string, limit, got float64, format, noise string) {
	r.judge(what, "≤ ", limit, got, format, noise, got <= limit)
}

// atLeast records a target that weir's figure must reach.
func (r *results) atLeast(what string, limit, got float64, format, noise string) {
	r.judge(what, "≥ ", limit, got, format, noise, got >= limit)
}

func (r *results) judge(what, relation string, limit, got float64, format, noise string, met bool) {
	if math.IsNaN(got) {
		return
	}
	r.targets = append(r.targets, verdict{
		what: what, want: relation + fmt.Sprintf(format, limit),
		got: fmt.Sprintf(format, got), noise: noise, met: met,
	})
}

// relation is how a figure is to stand to its limit.
type relation string

const (
	atMost  relation = "≤ "
	atLeast relation = "≥ "
)

// goal records a target like the two above; a figure that there is not, NaN, does not meet it.
func (r *results) goal(what string, rel relation, limit, got float64, format, beside string) {
	v := verdict{what: what, want: string(rel) + fmt.Sprintf(format, limit), got: "not measured", noise: beside}
	if strings.HasSuffix(format, " s") {
		v.got = "never"
	}
	if !math.IsNaN(got) {
		v.got = fmt.Sprintf(format, got)
		v.met = rel == atMost && got <= limit || rel == atLeast && got >= limit
	}
	r.targets = append(r.targets, v)
}

func (v verdict) word() string {
	if v.met {
		return "met"
	}
	return "**not met**"
}

// ratioText is a ratio for a table, a dash where it was not measured.
func ratioText(x float64) string { return number("%.2f×", x) }

func number(format string, x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return fmt.Sprintf(format, x)
}

// tables is everything as tables, in the order of reading.
func (r *results) tables() []section {
	about := section{title: "Run", header: []string{"", ""}}
	for _, line := range r.about {
		about.rows = append(about.rows, line[:])
	}
	all := []section{about}
	if len(r.targets) > 0 {
		t := section{title: "Targets", header: []string{"what", "target", "weir", cmp.Or(r.beside, "noise floor"), ""}}
		for _, v := range r.targets {
			t.rows = append(t.rows, []string{v.what, v.want, v.got, v.noise, v.word()})
		}
		all = append(all, t)
	}
	return append(all, r.sections...)
}

// text prints the tables for a terminal.
func (r *results) text(w io.Writer) {
	for _, s := range r.tables() {
		fmt.Fprintf(w, "\n%s\n", s.title)
		if s.note != "" {
			fmt.Fprintf(w, "%s\n", s.note)
		}
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if strings.Join(s.header, "") != "" {
			fmt.Fprintln(tw, "  "+strings.Join(s.header, "\t"))
		}
		for _, row := range s.rows {
			fmt.Fprintln(tw, "  "+strings.ReplaceAll(strings.Join(row, "\t"), "**", ""))
		}
		_ = tw.Flush()
	}
	for _, f := range r.failures {
		fmt.Fprintf(w, "\nFAILED %s\n", f)
	}
}

// markdown prints the tables for docs/benchmarks.md.
func (r *results) markdown(w io.Writer) {
	for _, s := range r.tables() {
		fmt.Fprintf(w, "### %s\n\n", s.title)
		if s.note != "" {
			fmt.Fprintf(w, "%s\n\n", s.note)
		}
		for _, c := range s.charts {
			fmt.Fprintf(w, "![%s](%s/%s)\n\n", c.Title, chartsFolder, c.file)
		}
		if len(s.header) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(s.header, " | "), strings.Repeat(" --- |", len(s.header)))
		for _, row := range s.rows {
			fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		}
		fmt.Fprintln(w)
	}
	for _, f := range r.failures {
		fmt.Fprintf(w, "**Failed:** %s\n\n", strings.ReplaceAll(f, "|", `\|`))
	}
}

// marks are the lines of a document between which write puts results.
type marks struct{ begin, end string }

// What make bench writes, and what make bench-overload does.
var (
	resultsMarks  = marks{"<!-- results: written by go run ./internal/bench -write docs/benchmarks.md -->", "<!-- end of results -->"}
	overloadMarks = marks{"<!-- overload: written by go run ./internal/bench -only overload -write docs/benchmarks.md -->", "<!-- end of overload -->"}
)

// chartsFolder is where charts are, beside the document.
const chartsFolder = "benchmarks"

// write replaces the results in a document and leaves the rest of it alone.
func (r *results) write(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	marks := cmp.Or(r.marks, resultsMarks)
	before, rest, ok := strings.Cut(string(old), marks.begin)
	_, after, ok2 := strings.Cut(rest, marks.end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q to write between", path, marks.begin, marks.end)
	}
	if err := r.writeCharts(filepath.Join(filepath.Dir(path), chartsFolder)); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(before + marks.begin + "\n\n")
	r.markdown(&b)
	b.WriteString(marks.end + after)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

func (r *results) writeCharts(folder string) error {
	for _, s := range r.sections {
		for _, c := range s.charts {
			var b bytes.Buffer
			if err := c.WriteSVG(&b); err != nil {
				return err
			}
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(folder, c.file), b.Bytes(), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
