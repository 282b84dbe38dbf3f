// Package yamlfile reads YAML of which nothing is known: text, of a bounded size and depth, one document, and nothing in it that
// refers, computes or changes types.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is how many bytes a file may have: more than anybody writes, and little enough to be read by mistake.
const MaxSize = 1 << 20

// maxProblems is how many are told at once.
const maxProblems = 20

// Position is a place in a file; lines and columns begin with 1, and 0 is the file as a whole.
type Position struct{ Line, Column int }

// PositionOf is where a value, or the first key of a section, is written.
func PositionOf(n ast.Node) Position {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 { // its own token is the first colon
			return PositionOf(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return PositionOf(n.Key)
	}
	return place(n.GetToken())
}

func place(t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{}
	}
	return Position{t.Position.Line, max(t.Position.Column, 1)}
}

// Problem is what is wrong with a file, and where: a sentence without its subject. It never quotes a value.
type Problem struct {
	Position
	Message string
}

// Kind is what a file is meant to be. What the YAML parser is given is bounded first: it recurses for every level of nesting and
// for every key of a section, and takes time in proportion to the square of the keys.
type Kind struct {
	Name     string // for messages, e.g. "a weir.yaml"
	Example  string // the least that it holds
	MaxKeys  int
	MaxDepth int // levels
}

// Parse returns the top-level section of a file, or what is wrong with it.
func Parse(data []byte, kind Kind) (ast.Node, []Problem) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	tokens, problems := tokenize(data, kind)
	if problems != nil {
		return nil, problems
	}
	file, err := parse(tokens)
	if err != nil {
		return nil, []Problem{syntax(err, data)}
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType && doc.Body.Type() != ast.NullType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		return nil, whole("is empty; expected at least " + kind.Example)
	case len(bodies) > 1:
		return nil, []Problem{{PositionOf(bodies[1]), "holds more than one YAML document; expected one, without a --- between its parts"}}
	}
	return bodies[0], nil
}

func whole(message string) []Problem { return []Problem{{Message: message}} }

// tokenize splits the file, and refuses what nobody needs and what would cost the parser too much.
func tokenize(data []byte, kind Kind) (token.Tokens, []Problem) {
	if len(data) > MaxSize {
		return nil, whole("is larger than 1 MiB; is it " + kind.Name + "?")
	}
	if at, what := badText(data); what != "" {
		return nil, []Problem{{at, what}}
	}
	tokens, err := lex(string(data))
	if err != nil {
		return nil, whole(err.Error())
	}
	var problems []Problem
	keys, flow, dashes, line := 0, 0, 0, 0
	for _, t := range tokens {
		at := place(t)
		if at.Line != line {
			line, dashes = at.Line, 0
		}
		switch t.Type {
		case token.MappingValueType:
			keys++
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			dashes++
		}
		if what := unwanted[t.Type]; what != "" {
			problems = append(problems, Problem{at, what})
		}
		if keys > kind.MaxKeys || flow > kind.MaxDepth || dashes > kind.MaxDepth {
			return nil, append(problems, Problem{
				at,
				fmt.Sprintf("is nested too deeply or too long; expected at most %d levels and %d keys", kind.MaxDepth, kind.MaxKeys),
			})
		}
		if len(problems) > maxProblems {
			break
		}
	}
	return tokens, problems
}

// unwanted is the YAML that a configuration does without: what refers, what computes, and what changes types.
var unwanted = map[token.Type]string{
	token.AnchorType:     "YAML anchors (&) are not supported; write the value out, or put it in quotes if it begins with &",
	token.AliasType:      "YAML aliases (*) are not supported; write the value out, or put it in quotes if it begins with *",
	token.MergeKeyType:   "YAML merge keys (<<) are not supported; write the section out",
	token.TagType:        "YAML tags (!) are not supported; leave the tag out, or put the value in quotes if it begins with !",
	token.MappingKeyType: "YAML complex keys (?) are not supported; expected key: value",
	token.DirectiveType:  "YAML directives (%) are not supported; leave the line out, or put the value in quotes if it begins with %",
}

// badText finds what cannot be in a text file, and tabs where YAML wants blanks.
func badText(data []byte) (at Position, what string) {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return Position{1, 1}, "is not UTF-8 but UTF-16; save it as UTF-8"
	}
	line, column := 1, 1
	indent, comment, tab := true, false, 0
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			return Position{line, column}, "is not UTF-8; save it as UTF-8"
		case c == '\n':
			line, column, indent, comment, tab = line+1, 0, true, false, 0
		case c == '\t' && indent:
			if tab == 0 {
				tab = column
			}
		case c < ' ' && c != '\r' && c != '\t', c == 0x7f:
			return Position{line, column}, fmt.Sprintf("holds the control character %U; is it a text file?", c)
		case c == '#' && indent:
			comment, indent = true, false
		case c != ' ' && c != '\r' && indent:
			indent = false
			if tab > 0 && !comment {
				return Position{line, tab}, "a tab is used for indentation; expected blanks"
			}
		}
		i += size
		column++
	}
	return Position{}, ""
}

// errParser stands for a panic of the parser, which hostile input can cause.
var errParser = errors.New("cannot be read as YAML")

func lex(text string) (tokens token.Tokens, err error) {
	defer recovered(&err)
	return lexer.Tokenize(text), nil
}

func parse(tokens token.Tokens) (file *ast.File, err error) {
	defer recovered(&err)
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

func recovered(err *error) {
	if recover() != nil {
		*err = errParser
	}
}

// syntax is what the parser refused, in words of its own: the parser's error shows the lines around, which may hold secrets.
func syntax(err error, data []byte) Problem {
	e, ok := errors.AsType[yaml.Error](err)
	if !ok || e.GetToken() == nil || e.GetToken().Position == nil {
		return Problem{Message: errParser.Error()}
	}
	at := place(e.GetToken())
	what := "is not YAML"
	for _, known := range complaints {
		if strings.Contains(e.GetMessage(), known.contains) {
			what = known.what
			break
		}
	}
	if lines := bytes.Split(data, []byte("\n")); at.Line <= len(lines) && bytes.Contains(lines[at.Line-1], []byte("{")) &&
		bytes.Contains(lines[at.Line-1], []byte("${")) {
		what += `; inside { } and [ ] a value with ${…} needs quotes, e.g. { password: "${APP_PASSWORD}" }`
	}
	return Problem{at, what}
}

var complaints = []struct{ contains, what string }{
	{"end character of double-quoted", `a " is never closed`},
	{"end character of single-quoted", "a ' is never closed"},
	{"unknown escape character", `a \ inside "…" begins an escape that YAML does not know; write \\, or use '…'`},
	{"mapping value is not allowed", "a second `: ` in one value, or a line that is indented too far; put a value that holds `: ` in quotes"},
	{"unexpected key name", "expected key: value, with a blank behind the colon"},
	{"non-map value", "expected key: value, with a blank behind the colon"},
	{"',' or '}'", "expected , or } in a { } section"},
	{"',' or ']'", "expected , or ] in a [ ] list"},
	{"end token '}'", "a { is never closed"},
	{"end token ']' not found", "a [ is never closed"},
	{"corresponding to ']'", "a ] without its ["},
	{"corresponding to '}'", "a } without its {"},
	{"reserved character", "a value cannot begin with @ or `; put it in quotes"},
	{"value is not allowed in this context", "the indentation fits nothing above"},
	{"implicit line break", "a key goes over two lines; is a , missing?"},
	{"document", "--- or ... in the wrong place; expected one YAML document"},
	{"cannot start any token", "a tab in the wrong place; expected blanks"},
	{"sequence", "a list in the wrong place"},
	{"could not find", "a key, a value or a bracket is missing"},
	{"unexpected", "a key or a value in the wrong place"},
}
