package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/weirproxy/weir/breaker"
	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/internal/yamlfile"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/upstream"
)

type position = yamlfile.Position

// weirYAML is what a configuration file is.
var weirYAML = yamlfile.Kind{
	Name: "a weir.yaml", Example: `resources, e.g. resources: { orders: { upstream: "${ORDERS_DSN}" } }`,
	MaxKeys: 20000, MaxDepth: 32,
}

// parse turns the file into its top-level section, or reports why it is none.
func (r *reader) parse(data []byte) ast.Node {
	root, problems := yamlfile.Parse(data, weirYAML)
	for _, p := range problems {
		r.add(p.Position, "", p.Message)
	}
	return root
}

// A reader fills a Config from a parsed file and collects what is wrong with it. The maps are by path.
type reader struct {
	src      Source
	problems Problems
	warnings Problems

	at       map[string]position // where a key's value is written
	written  map[string]string   // values that may be quoted, as written
	expanded map[string]bool     // values in which something was expanded
	inFiles  map[string]string   // the last ${file:…} in a value
	examples map[string]string   // the eg tags of all keys of all sections that were read
	literal  bool                // a secret is written in the file itself
	bad      map[string]bool     // what has a problem already: one mistake is told once
}

func newReader(src Source) *reader {
	if src.Env == nil {
		src.Env = os.LookupEnv
	}
	if src.ReadFile == nil {
		src.ReadFile = readRegular
		if src.Mode == nil {
			src.Mode = modeOf
		}
	}
	return &reader{
		src:      src,
		at:       map[string]position{},
		written:  map[string]string{},
		expanded: map[string]bool{},
		inFiles:  map[string]string{},
		examples: map[string]string{},
		bad:      map[string]bool{},
	}
}

// add reports a problem at a place.
func (r *reader) add(at position, path, message string) {
	r.problems = append(r.problems, Problem{File: r.src.File, Line: at.Line, Column: at.Column, Path: path, Message: message})
	r.bad[path] = true
}

// problem reports what is wrong with a key, where it is written or else where its section is.
func (r *reader) problem(path, what, expected string) {
	if r.bad[path] {
		return
	}
	if expected != "" {
		what += "; expected " + expected
	}
	if eg := r.examples[path]; eg != "" {
		what += "; e.g. " + path[strings.LastIndexByte(path, '.')+1:] + ": " + eg
	}
	r.add(r.place(path), path, what)
}

func (r *reader) warn(path, message string) {
	at := r.place(path)
	r.warnings = append(r.warnings, Problem{File: r.src.File, Line: at.Line, Column: at.Column, Path: path, Message: message})
}

// place is where path is written, or else the nearest section around it.
func (r *reader) place(path string) position {
	for {
		if at, ok := r.at[path]; ok || path == "" {
			return at
		}
		path = parent(path)
	}
}

func parent(path string) string {
	quoted := false
	for i := len(path) - 1; i > 0; i-- {
		switch {
		case path[i] == '"':
			quoted = !quoted
		case !quoted && (path[i] == '.' || path[i] == '['):
			return path[:i]
		}
	}
	return ""
}

// under gives the report of a Validate method whose keys are below path. It begins with the value, when it may be shown.
func (r *reader) under(path string) func(key, what, expected string) {
	return func(key, what, expected string) {
		key = path + "." + key
		if text := r.written[key]; text != "" {
			what = text + " " + what
		}
		r.problem(key, what, expected)
	}
}

// ok says that all of these were read without a problem, so that they may be compared.
func (r *reader) ok(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(path string) bool { return r.bad[path] })
}

// A field is one key of a section.
type field struct {
	key     string
	index   int
	example string
	weir    string // the weir tag
}

func (f field) has(option string) bool { return slices.Contains(strings.Split(f.weir, ","), option) }

// zero is what 0 means, or "" where 0 cannot be written.
func (f field) zero() string {
	for option := range strings.SplitSeq(f.weir, ",") {
		if word, ok := strings.CutPrefix(option, "zero="); ok {
			return word
		}
	}
	return ""
}

func fields(t reflect.Type) []field {
	var fs []field
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		if key := tag.Get("yaml"); key != "" && key != "-" {
			fs = append(fs, field{key, i, tag.Get("eg"), tag.Get("weir")})
		}
	}
	return fs
}

func keys(fs []field) []string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = f.key
	}
	return names
}

// read fills cfg from the top-level section.
func (r *reader) read(root ast.Node, cfg *Config) {
	r.at[""] = yamlfile.PositionOf(root)
	r.value("", root, reflect.ValueOf(cfg).Elem(), field{})
}

// prefill puts the defaults into what was just made, for the file to overwrite.
func prefill(section any) {
	switch s := section.(type) {
	case *Resource:
		*s = DefaultResource()
	case *limiter.Rate:
		*s = limiter.Rate{}.WithDefaults()
	case *limiter.Adaptive:
		*s = limiter.Adaptive{Enabled: true}.WithDefaults()
	case *limiter.CallerRule:
		*s = limiter.CallerRule{}.WithDefaults()
	case *fleet.Config:
		*s = fleet.Config{}.WithDefaults()
	case *breaker.Config:
		*s = breaker.Config{}.WithDefaults()
	}
}

var (
	secretType   = reflect.TypeFor[Secret]()
	dsnType      = reflect.TypeFor[DSN]()
	durationType = reflect.TypeFor[time.Duration]()
)

// value reads one value into v, which is of any type that a Config holds.
func (r *reader) value(path string, n ast.Node, v reflect.Value, f field) {
	if _, known := r.at[path]; !known || isScalar(n) { // of a section, its key is the better place to look at
		r.at[path] = yamlfile.PositionOf(n)
	}
	if n.Type() == ast.NullType {
		r.problem(path, "is empty", expects(v.Type(), f)+", or the key left out")
		return
	}
	if v.Kind() == reflect.Pointer {
		made := reflect.New(v.Type().Elem())
		prefill(made.Interface())
		r.value(path, n, made.Elem(), f)
		v.Set(made)
		return
	}
	text, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case v.Type() == secretType, v.Type() == dsnType:
		r.secret(path, n, v, f)
	case isText:
		r.text(path, n, text, v.Type(), f)
	case v.Kind() == reflect.Struct:
		r.section(path, n, v, f)
	case v.Kind() == reflect.Map:
		r.named(path, n, v, f)
	case v.Kind() == reflect.Slice:
		r.list(path, n, v, f)
	default:
		r.scalar(path, n, v, f)
	}
}

// entries are the keys and values of a section; ok is false for anything else.
func entries(n ast.Node) (values []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// eachKey calls read for every key of a section, once per key.
func (r *reader) eachKey(path string, values []*ast.MappingValueNode, read func(key string, at position, value ast.Node)) {
	seen := map[string]position{}
	for _, e := range values {
		key, at := e.Key.GetToken().Value, yamlfile.PositionOf(e.Key)
		if before, _, found := strings.Cut(key, ":"); found && e.Value.Type() == ast.NullType {
			// What stands behind the colon may be a password.
			r.add(at, join(path, before), "a blank is missing behind the colon; expected key: value")
			continue
		}
		inner := join(path, key)
		if first, again := seen[key]; again {
			r.add(at, inner, fmt.Sprintf("is written twice, first in line %d; expected it once", first.Line))
			continue
		}
		seen[key] = at
		read(key, at, e.Value)
	}
}

func (r *reader) section(path string, n ast.Node, v reflect.Value, f field) {
	known := fields(v.Type())
	for _, k := range known {
		if k.example != "" {
			r.examples[join(path, k.key)] = k.example
		}
	}
	values, ok := entries(n)
	if !ok {
		for _, k := range known {
			if k.has("short") && isScalar(n) {
				r.value(path, n, v.Field(k.index), k)
				if inner := join(path, k.key); !r.bad[path] { // checks ask for the key by its own path
					r.at[inner], r.written[inner], r.expanded[inner] = r.at[path], r.written[path], r.expanded[path]
				}
				return
			}
		}
		r.wrong(path, n, v.Type(), f)
		return
	}
	var given []string
	r.eachKey(path, values, func(key string, at position, value ast.Node) {
		i := slices.IndexFunc(known, func(k field) bool { return k.key == key })
		inner := join(path, key)
		if i < 0 {
			r.add(at, inner, r.unknown(key, keys(known)))
			return
		}
		given = append(given, key)
		r.at[inner] = at
		if known[i].has("later") {
			r.warn(inner, "accepted, has no effect in this version")
		}
		r.value(inner, value, v.Field(known[i].index), known[i])
	})
	for _, k := range known {
		if k.has("required") && !slices.Contains(given, k.key) {
			r.problem(join(path, k.key), "is missing", expects(v.Field(k.index).Type(), k))
		}
	}
}

// unknown says what to write instead of a key that is not known here.
func (r *reader) unknown(key string, known []string) string {
	what := "unknown key"
	if near := nearest(key, known); near != "" {
		return what + "; did you mean " + near + "?"
	}
	if homes := homesOf(key, reflect.TypeFor[Config](), ""); len(homes) > 0 {
		return what + "; it belongs under " + strings.Join(homes, " or ")
	}
	return what + "; expected one of " + strings.Join(known, ", ")
}

// homesOf lists the sections that have this key.
func homesOf(key string, t reflect.Type, path string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return homesOf(key, t.Elem(), path)
	case reflect.Map:
		return homesOf(key, t.Elem(), path+".<name>")
	case reflect.Struct:
	default:
		return nil
	}
	var homes []string
	for _, f := range fields(t) {
		if f.key == key {
			if path == "" {
				homes = append(homes, "the top level")
			} else {
				homes = append(homes, path)
			}
		}
		inner := f.key
		if path != "" {
			inner = path + "." + f.key
		}
		homes = append(homes, homesOf(key, t.Field(f.index).Type, inner)...)
	}
	return homes
}

func (r *reader) named(path string, n ast.Node, v reflect.Value, f field) {
	values, ok := entries(n)
	if !ok {
		r.wrong(path, n, v.Type(), f)
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	r.eachKey(path, values, func(key string, at position, value ast.Node) {
		inner := join(path, key)
		if strings.Contains(key, "${") {
			r.add(at, inner, "${…} is expanded in values, not in names; expected the name itself")
			return
		}
		made := reflect.New(v.Type().Elem())
		prefill(made.Interface())
		r.at[inner] = at
		r.value(inner, value, made.Elem(), field{})
		v.SetMapIndex(reflect.ValueOf(key), made.Elem())
	})
}

func (r *reader) list(path string, n ast.Node, v reflect.Value, f field) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		r.wrong(path, n, v.Type(), f)
		return
	}
	for i, value := range sequence.Values {
		made := reflect.New(v.Type().Elem())
		prefill(made.Interface())
		r.value(fmt.Sprintf("%s[%d]", path, i), value, made.Elem(), field{})
		v.Set(reflect.Append(v, made.Elem()))
	}
}

// secret reads text that is never quoted.
func (r *reader) secret(path string, n ast.Node, v reflect.Value, f field) {
	if !isScalar(n) || !isString(n) {
		r.wrong(path, n, v.Type(), f)
		return
	}
	text, ok := r.expand(path, n, f)
	switch {
	case !ok:
	case text == "":
		r.problem(path, "is empty", expects(v.Type(), f))
	case v.Type() == secretType:
		r.checkKept(path, !strings.HasPrefix(text, scramPrefix)) // a verifier is made to be kept
		v.Set(reflect.ValueOf(NewSecret(text)))
	default:
		dsn, err := NewDSN(text)
		if bad := (*upstream.Mistake)(nil); errors.As(err, &bad) {
			r.problem(path, bad.What, bad.Expected)
			return
		}
		parsed, err := upstream.Parse(text)
		r.checkKept(path, err == nil && parsed.Written("password"))
		v.Set(reflect.ValueOf(dsn))
	}
}

// text reads a value of a type that reads itself; its error is what was expected.
func (r *reader) text(path string, n ast.Node, into encoding.TextUnmarshaler, t reflect.Type, f field) {
	if !isScalar(n) {
		r.wrong(path, n, t, f)
		return
	}
	text, ok := r.expand(path, n, f)
	if !ok {
		return
	}
	if err := into.UnmarshalText([]byte(text)); err != nil {
		r.problem(path, r.subject(path)+"is not a usable value", err.Error())
	}
}

// number is how numbers are written: no signs of other bases, no blanks, no underscores.
var (
	wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	number      = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)
)

// maxDuration keeps sums of durations and clocks far from overflow.
const maxDuration = 10 * 365 * 24 * time.Hour

func (r *reader) scalar(path string, n ast.Node, v reflect.Value, f field) {
	wantsString := v.Kind() == reflect.String
	if !isScalar(n) || wantsString && !isString(n) {
		r.wrong(path, n, v.Type(), f)
		return
	}
	text, ok := r.expand(path, n, f)
	if !ok {
		return
	}
	if !wantsString && !r.expanded[path] && isQuoted(n) && v.Type() != durationType {
		r.wrong(path, n, v.Type(), f)
		return
	}
	expected := expects(v.Type(), f)
	if f.has("dsn") {
		r.checkKept(path, credentials.MatchString(text))
	}
	switch {
	case wantsString:
		if text == "" {
			r.problem(path, "is empty", expected+", or the key left out")
			return
		}
		if f.has("path") {
			text = r.src.located(text)
		}
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			r.problem(path, r.subject(path)+"is neither true nor false", expected)
			return
		}
		v.SetBool(text == "true")
	case v.Type() == durationType:
		d, err := time.ParseDuration(text)
		switch {
		case number.MatchString(text) && text != "0":
			r.problem(path, r.subject(path)+"has no unit", expected)
		case err != nil:
			r.problem(path, r.subject(path)+"is not a duration", expected)
		case d > maxDuration:
			r.problem(path, r.subject(path)+"is longer than ten years", expected)
		case d < 0, d == 0 && f.zero() == "":
			r.problem(path, r.subject(path)+"is not above 0", expected)
		default:
			v.SetInt(int64(d))
		}
	case v.Kind() == reflect.Int:
		i, err := strconv.ParseInt(text, 10, 32)
		switch {
		case !wholeNumber.MatchString(text):
			r.problem(path, r.subject(path)+"is not a whole number", expected)
		case err != nil && !strings.HasPrefix(text, "-"):
			r.problem(path, r.subject(path)+"is too large", expected)
		case i < 0, i == 0 && f.zero() == "":
			r.problem(path, r.subject(path)+"is below 1", expected)
		default:
			v.SetInt(i)
		}
	case v.Kind() == reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		switch {
		case !number.MatchString(text) || err != nil && !math.IsInf(x, 0):
			r.problem(path, r.subject(path)+"is not a number", expected)
		case x > math.MaxInt32:
			r.problem(path, r.subject(path)+"is too large", expected)
		case x <= 0:
			r.problem(path, r.subject(path)+"is not above 0", expected)
		default:
			v.SetFloat(x)
		}
	default:
		panic("config: " + path + " is of a type that cannot be read: " + v.Type().String())
	}
}

// expand gives the text of a scalar with its ${…} replaced, and notes whether it may be quoted.
func (r *reader) expand(path string, n ast.Node, f field) (text string, ok bool) {
	var escape func(before, value, after string) string
	if f.has("dsn") {
		escape = func(before, value, after string) string {
			value, doubtful := upstream.Insert(before, value, after)
			if doubtful {
				r.warn(path, "has a value from ${…} with a % that looks as if it had been percent-encoded; it is taken as it is, and encoded here")
			}
			return value
		}
	}
	raw := scalarText(n)
	text, expanded, complaint := r.src.expand(raw, escape)
	r.expanded[path] = expanded
	if file := fileReference.FindStringSubmatch(raw); file != nil {
		r.inFiles[path] = file[1]
	}
	if complaint != "" {
		r.problem(path, complaint, "")
		return "", false
	}
	if !expanded && !f.has("dsn") && harmless(text) {
		r.written[path] = text
		if isString(n) {
			r.written[path] = strconv.Quote(text)
		}
	}
	return text, true
}

var fileReference = regexp.MustCompile(`\$\{file:([^}]+)\}`)

// harmless says that text may be quoted: it is short, and does not look like a DSN, a verifier or a hash that was
// written in the wrong place.
func harmless(text string) bool {
	return len(text) <= longest && !strings.ContainsAny(text, "@$=") && !strings.Contains(text, "://") &&
		!strings.HasPrefix(text, "md5") && !strings.Contains(text, "SCRAM-")
}

// subject is the value with a blank behind it, or nothing if it may not be shown. Secrets never come here.
func (r *reader) subject(path string) string {
	if text := r.written[path]; text != "" {
		return text + " "
	}
	return ""
}

// wrong reports a value of another type. It does not quote the value: it may be a secret one level too high.
func (r *reader) wrong(path string, n ast.Node, t reflect.Type, f field) {
	expected := expects(t, f)
	if t.Kind() == reflect.String || t == secretType || t == dsnType {
		if isScalar(n) && !isString(n) {
			expected += ", in quotes"
		}
	}
	if isQuoted(n) && t.Kind() != reflect.Struct && t.Kind() != reflect.Map && t.Kind() != reflect.Slice {
		expected += ", without quotes"
	}
	if isString(n) && (t.Kind() == reflect.Struct || t.Kind() == reflect.Map) && strings.Contains(scalarText(n), ":") {
		expected += "; a key's colon needs a blank behind it"
	}
	r.problem(path, "is "+kindOf(n), expected)
}

// expects names what a value of this type looks like.
func expects(t reflect.Type, f field) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return expects(t.Elem(), f)
	case t == dsnType:
		return upstream.Shape
	case t == durationType && f.zero() != "":
		return "a duration such as 500ms, 2s or 1h, or 0s for " + f.zero()
	case t == durationType:
		return "a duration above 0 such as 500ms, 2s or 1h"
	case t == reflect.TypeFor[limiter.Length]():
		return "auto, or a whole number of clients, 1 or more"
	case t == reflect.TypeFor[limiter.Patience]():
		return "auto, or a duration above 0 with its unit, such as 800ms"
	}
	switch t.Kind() {
	case reflect.Int:
		return "a whole number, 1 or more"
	case reflect.Float64:
		return "a number above 0"
	case reflect.Bool:
		return "true or false"
	case reflect.Struct:
		if t == secretType {
			return "text"
		}
		known := "a section with " + strings.Join(keys(fields(t)), ", ")
		for _, k := range fields(t) {
			if k.has("short") {
				return expects(t.Field(k.index).Type, k) + ", or " + known
			}
		}
		return known
	case reflect.Map:
		return "a section of names"
	case reflect.Slice:
		return "a list"
	}
	return "text"
}

func isScalar(n ast.Node) bool {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return true
	}
	return false
}

func isString(n ast.Node) bool {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return true
	}
	return false
}

func isQuoted(n ast.Node) bool {
	s, ok := n.(*ast.StringNode)
	return ok && (s.Token.Type == token.SingleQuoteType || s.Token.Type == token.DoubleQuoteType)
}

func scalarText(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	}
	return n.GetToken().Value
}

func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		if isQuoted(n) {
			return "text in quotes"
		}
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "empty"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	}
	return "something else"
}
