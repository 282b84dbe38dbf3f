package storm

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirproxy/weir/internal/yamlfile"
	"github.com/weirproxy/weir/upstream"
)

// Bounds of a plan file.
const (
	MaxTargets  = 10 // to compare
	maxProblems = 20 // told at once
)

// File is a storm as it is written down, in YAML: the keys of a plan, callers as a list, and targets to compare by name.
//
//	dsn: postgres://app:${PASSWORD}@weir:6432/orders
//	load: 200/s for 10s, 3000/s for 5s
//	connections: kept
//	callers:
//	  - { name: checkout, share: 0.2, priority: critical, sql_file: checkout.sql }
type File struct {
	Plan    Plan
	Targets []Target // to compare, instead of the plan's DSN

	name string
	at   map[string]position // where the value of a key is written
}

type position = yamlfile.Position

// FileProblem is one thing that is wrong with a plan file, and where.
type FileProblem struct {
	File         string
	Line, Column int // 1 is the first; 0 is the file as a whole
	Mistake
}

func (p *FileProblem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Message
}

// Unwrap returns the mistake.
func (p *FileProblem) Unwrap() error { return &p.Mistake }

// ParseFile reads a plan file. All that is wrong with it is in the error, a FileProblem a line. ${NAME} in a DSN or a password
// is what env says; files with SQL are looked for beside the plan file. What a plan needs and a flag may yet say is not
// missed here: see Plan.Validate and Explain.
func ParseFile(name string, data []byte, env func(string) (string, bool)) (*File, error) {
	r := &fileReader{file: &File{name: name, at: map[string]position{}}, env: env}
	if root := r.parse(data); root != nil {
		r.plan(root)
	}
	if len(r.problems) == 0 {
		return r.file, nil
	}
	slices.SortStableFunc(r.problems, func(a, b *FileProblem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var all []error
	for _, p := range r.problems {
		all = append(all, p)
	}
	return nil, errors.Join(all...)
}

// Explain adds to a Mistake of Validate where it is written, if it is.
func (f *File) Explain(err error) error {
	found, ok := errors.AsType[*Mistake](err)
	if !ok {
		return err
	}
	for key := found.Key; key != ""; key = parentKey(key) {
		if at, ok := f.at[key]; ok {
			return &FileProblem{File: f.name, Line: at.Line, Column: at.Column, Mistake: *found}
		}
	}
	return &FileProblem{File: f.name, Mistake: *found}
}

func parentKey(key string) string { return key[:max(0, strings.LastIndexAny(key, ".["))] }

// fileReader fills a File and collects what is wrong with it.
type fileReader struct {
	file     *File
	env      func(string) (string, bool)
	problems []*FileProblem
}

func (r *fileReader) problem(at position, key, format string, args ...any) {
	r.problems = append(r.problems, &FileProblem{
		File: r.file.name, Line: at.Line, Column: at.Column, Mistake: Mistake{key, fmt.Sprintf(format, args...)},
	})
}

// planFile is what a plan file is.
var planFile = yamlfile.Kind{Name: "a plan", Example: "load, e.g. load: 200/s for 10s", MaxKeys: 5000, MaxDepth: 16}

// parse returns the top-level section, or reports why there is none.
func (r *fileReader) parse(data []byte) ast.Node {
	root, problems := yamlfile.Parse(data, planFile)
	for _, p := range problems {
		r.problem(p.Position, "", "%s", p.Message)
	}
	return root
}

func (r *fileReader) plan(root ast.Node) {
	r.section("", root, func(key string, at position, value ast.Node) {
		switch key {
		case "callers":
			r.callers(value, at)
		case "targets":
			r.targets(value, at)
		default:
			readSetting(r, planSettings, &r.file.Plan, "", key, at, value, "callers", "targets")
		}
	})
}

func (r *fileReader) callers(n ast.Node, at position) {
	r.file.at["callers"] = at
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		r.problem(at, "callers", "is not a list; expected e.g. callers: [ { name: checkout, share: 0.2 } ]")
		return
	}
	if len(list.Values) > MaxCallers {
		r.problem(at, "callers", "has %d entries; expected at most %d", len(list.Values), MaxCallers)
		return
	}
	for i, entry := range list.Values {
		path := fmt.Sprintf("callers[%d]", i)
		r.file.at[path] = yamlfile.PositionOf(entry)
		var c Caller
		r.section(path, entry, func(key string, at position, value ast.Node) {
			readSetting(r, callerSettings, &c, path+".", key, at, value)
		})
		r.file.Plan.Callers = append(r.file.Plan.Callers, c)
	}
}

func (r *fileReader) targets(n ast.Node, at position) {
	r.section("targets", n, func(name string, at position, value ast.Node) {
		path := "targets." + name
		text, ok := scalarText(value)
		if !ok {
			r.problem(at, path, "is not a DSN; expected e.g. %s: postgres://app@host/db", name)
			return
		}
		dsn, err := r.expand(text)
		if err != nil {
			r.problem(at, path, "%v", err)
			return
		}
		r.file.Targets = append(r.file.Targets, Target{Name: name, DSN: dsn})
	})
	if len(r.file.Targets) > MaxTargets {
		r.problem(at, "targets", "has %d entries; expected at most %d", len(r.file.Targets), MaxTargets)
	}
}

// section calls read for every key, once a key.
func (r *fileReader) section(path string, n ast.Node, read func(key string, at position, value ast.Node)) {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		r.problem(yamlfile.PositionOf(n), path, "is not a section; expected key: value")
		return
	}
	seen := map[string]int{}
	for _, e := range entries {
		if len(r.problems) >= maxProblems {
			return
		}
		key, at := e.Key.GetToken().Value, yamlfile.PositionOf(e.Key)
		if first, again := seen[key]; again {
			r.problem(at, key, "is written twice, first in line %d", first)
			continue
		}
		seen[key] = at.Line
		read(key, at, e.Value)
	}
}

// readSetting takes one key of a section; others are keys that are no settings, for who wrote neither.
func readSetting[T any](r *fileReader, settings []setting[T], into *T, path, key string, at position, value ast.Node, others ...string) {
	i := slices.IndexFunc(settings, func(s setting[T]) bool { return s.key == key })
	if i < 0 {
		all := append(keys(settings), others...)
		slices.Sort(all)
		r.problem(at, path+key, "is not known; expected one of %s", strings.Join(all, ", "))
		return
	}
	r.file.at[path+key] = yamlfile.PositionOf(value)
	text, ok := scalarText(value)
	if list, isList := value.(*ast.SequenceNode); isList && key == "load" {
		text, ok = phaseList(list)
	}
	if !ok {
		r.problem(yamlfile.PositionOf(value), path+key, "is not a value; expected e.g. %s: %s", key, settings[i].eg)
		return
	}
	var err error
	switch key {
	case "dsn":
		text, err = r.expand(text)
	case "password":
		text, err = r.expandTo(text, func(_, value, _ string) (string, bool) { return value, false })
	case "sql_file":
		if !filepath.IsAbs(text) {
			text = filepath.Join(filepath.Dir(r.file.name), text)
		}
	}
	if err == nil {
		err = set(settings, into, key, text)
	}
	if found, ok := errors.AsType[*Mistake](err); ok {
		r.problem(yamlfile.PositionOf(value), path+key, "%s", found.Message)
	} else if err != nil {
		r.problem(yamlfile.PositionOf(value), path+key, "%v", err)
	}
}

// phaseList is a load that is written as a list of phases.
func phaseList(list *ast.SequenceNode) (text string, ok bool) {
	var phases []string
	for _, entry := range list.Values {
		phase, ok := scalarText(entry)
		if !ok {
			return "", false
		}
		phases = append(phases, phase)
	}
	return strings.Join(phases, ", "), true
}

var environment = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand puts the environment's values in the place of ${NAME}, made fit for a connection string. It never tells one.
func (r *fileReader) expand(text string) (string, error) { return r.expandTo(text, upstream.Insert) }

// expandTo is expand with values made fit for something else.
func (r *fileReader) expandTo(text string, insert func(before, value, after string) (string, bool)) (string, error) {
	var out strings.Builder
	for {
		at := environment.FindStringSubmatchIndex(text)
		if at == nil {
			out.WriteString(text)
			return out.String(), nil
		}
		name := text[at[2]:at[3]]
		value, ok := r.env(name)
		if !ok {
			return "", fmt.Errorf("${%s} is not in the environment; expected it to be set", name)
		}
		out.WriteString(text[:at[0]])
		text = text[at[1]:]
		value, _ = insert(out.String(), value, text)
		out.WriteString(value)
	}
}

func scalarText(n ast.Node) (text string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}
