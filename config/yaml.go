package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What the YAML parser is given is bounded first: it recurses for every level of nesting and for every key of a
// section, and takes time in proportion to the square of the keys.
const (
	maxKeys  = 20000
	maxDepth = 32
)

// parse turns the file into its top-level section, or reports why it is none.
func (r *reader) parse(data []byte) ast.Node {
	data = withoutBOM(data)
	tokens, ok := r.tokens(data)
	if !ok {
		return nil
	}
	file, err := parseTokens(tokens)
	if err != nil {
		r.syntax(err, data)
		return nil
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType && doc.Body.Type() != ast.NullType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		r.file("is empty; expected at least resources, e.g. resources: { orders: { upstream: \"${ORDERS_DSN}\" } }")
		return nil
	case len(bodies) > 1:
		r.at[""] = positionOf(bodies[1])
		r.file("holds more than one YAML document; expected one, without a --- between its parts")
		return nil
	}
	return bodies[0]
}

// tokens splits the file, and refuses what no configuration needs and what would cost the parser too much.
func (r *reader) tokens(data []byte) (token.Tokens, bool) {
	if len(data) > maxFile {
		r.file("is larger than 1 MiB; is it a weir.yaml?")
		return nil, false
	}
	if line, column, what := badText(data); what != "" {
		r.at[""] = position{line, column}
		r.file(what)
		return nil, false
	}
	tokens, err := tokenize(string(data))
	if err != nil {
		r.file(err.Error())
		return nil, false
	}
	before := len(r.problems)
	keys, flow, dashes, line := 0, 0, 0, 0
	for _, t := range tokens {
		at := position{t.Position.Line, max(t.Position.Column, 1)}
		if at.line != line {
			line, dashes = at.line, 0
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
			r.add(at, "", what)
		}
		if keys > maxKeys || flow > maxDepth || dashes > maxDepth {
			r.add(at, "", fmt.Sprintf("is nested too deeply or too long; expected at most %d levels and %d keys", maxDepth, maxKeys))
			return nil, false
		}
		if len(r.problems) > before+20 {
			return nil, false
		}
	}
	return tokens, len(r.problems) == before
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
func badText(data []byte) (line, column int, what string) {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return 1, 1, "is not UTF-8 but UTF-16; save it as UTF-8"
	}
	line, column = 1, 1
	indent, comment, tab := true, false, 0
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			return line, column, "is not UTF-8; save it as UTF-8"
		case c == '\n':
			line, column, indent, comment, tab = line+1, 0, true, false, 0
		case c == '\t' && indent:
			if tab == 0 {
				tab = column
			}
		case c < ' ' && c != '\r' && c != '\t', c == 0x7f:
			return line, column, fmt.Sprintf("holds the control character %U; is it a text file?", c)
		case c == '#' && indent:
			comment, indent = true, false
		case c != ' ' && c != '\r' && indent:
			indent = false
			if tab > 0 && !comment {
				return line, tab, "a tab is used for indentation; expected blanks"
			}
		}
		i += size
		column++
	}
	return 0, 0, ""
}

// errParser stands for a panic of the parser, which hostile input can cause.
var errParser = errors.New("cannot be read as YAML")

func tokenize(text string) (tokens token.Tokens, err error) {
	defer func() {
		if recover() != nil {
			err = errParser
		}
	}()
	return lexer.Tokenize(text), nil
}

func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			err = errParser
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// syntax reports what the parser refused, in words of its own: the parser's error shows the lines around, which may
// hold secrets.
func (r *reader) syntax(err error, data []byte) {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil || e.GetToken().Position == nil {
		r.file(errParser.Error())
		return
	}
	at := position{e.GetToken().Position.Line, max(e.GetToken().Position.Column, 1)}
	what := "is not YAML"
	for _, known := range complaints {
		if strings.Contains(e.GetMessage(), known.contains) {
			what = known.what
			break
		}
	}
	if lines := bytes.Split(data, []byte("\n")); at.line <= len(lines) && bytes.Contains(lines[at.line-1], []byte("{")) &&
		bytes.Contains(lines[at.line-1], []byte("${")) {
		what += `; inside { } and [ ] a value with ${…} needs quotes, e.g. { password: "${APP_PASSWORD}" }`
	}
	r.add(at, "", what)
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

// why is an error of the file system without the path, which the problem names already.
func why(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Op + ": " + path.Err.Error()
	}
	return err.Error()
}
