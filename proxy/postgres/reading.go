package postgres

import (
	"bytes"
	"slices"
	"strings"

	"github.com/weirproxy/weir/proxy/postgres/sqltext"
)

// reading is what a whole text says by its tokens, where words alone do not tell: whether what leaves a trace is a statement or a
// call in plain sight or only stands in a string, and whether it is plain to see which parameter is set.
type reading struct {
	plain  touch      // what statements and calls in plain sight leave
	names  []string   // of parameters with a dot that are set
	sets   bool       // a parameter is set, or reset, beyond the transaction
	local  bool       // or for the transaction
	vague  bool       // which one is not plain to see
	hidden bool       // SQL is executed that is not in plain sight: whatever the server knows of is to be asked about
	path   bool       // the search path may name the schema of temporary tables
	closes bool       // and it may be anything
	unsure bool       // strings may end elsewhere than they seem to: that depends on standard_conforming_strings
	quoted parameters // what strings say of parameters, which some function may execute
	depth  int        // of strings within strings
	tokens int        // that were read, those of strings that are executed included

	backslashes bool // are escapes in simple strings
	broken      bool // a string, or whatever it is, does not end: the server refuses the text
}

// longestRead is how long a text may be that is read by its tokens, in bytes.
const longestRead = 256 << 10

// mostTokens is how many tokens of a text are read, which takes some 20 ms. What has more may be anything.
const mostTokens = 48 << 10

// deepestRead is how deep strings are read that are executed, within strings that are.
const deepestRead = 4

// callsThatMatter are functions that leave something wherever they are called. They are among the keywords.
var callsThatMatter = map[string]touch{
	"pg_advisory_lock": touchLock, "pg_advisory_lock_shared": touchLock,
	"pg_try_advisory_lock": touchLock, "pg_try_advisory_lock_shared": touchLock,
	"lastval": touchSequence, "currval": touchSequence,
	"dblink_connect": touchConnection, "dblink_connect_u": touchConnection,

	// what a server process itself keeps up to its end
	"pg_replication_origin_session_setup": touchConnection, "pg_backup_start": touchConnection, "pg_start_backup": touchConnection,
	"pg_create_logical_replication_slot": touchConnection, "pg_create_physical_replication_slot": touchConnection,
	"pg_copy_logical_replication_slot": touchConnection, "pg_copy_physical_replication_slot": touchConnection,
}

// interpreters are functions that execute a string as SQL (manual, "XML Functions", "Text Search Functions", tablefunc, xml2).
var interpreters = []string{
	"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite",
	"crosstab", "crosstab2", "crosstab3", "crosstab4", "connectby", "xpath_table",
}

// readTokens reads a whole text, in a time proportional to its length.
func readTokens(sql []byte) (r reading) {
	r.read(sql)
	return r
}

// readEscaped is readTokens for a session in which backslashes are escapes in simple strings.
func readEscaped(sql []byte) reading {
	r := reading{backslashes: true}
	r.read(sql)
	return r
}

func (r *reading) read(sql []byte) {
	var (
		tokens    = sqltext.NewReader(sql)
		statement []sqltext.Token
		depth     int
	)
	tokens.Backslashes = r.backslashes
	for t, ok := tokens.Next(); ok; t, ok = tokens.Next() {
		if r.tokens++; r.tokens > mostTokens {
			r.hide()
			return
		}
		switch {
		case isSign(t, '('):
			depth++
		case isSign(t, ')'):
			depth = max(0, depth-1)
		case isSign(t, ';') && depth == 0:
			r.readStatement(statement)
			statement = statement[:0]
			continue
		}
		statement = append(statement, t)
	}
	r.readStatement(statement)
	r.vague = r.vague || len(r.names) > mostNames
}

func isSign(t sqltext.Token, sign byte) bool {
	return t.Kind == sqltext.Punctuation && t.Text[0] == sign
}

// readStatement reads one statement.
func (r *reading) readStatement(tokens []sqltext.Token) {
	r.readMarks(tokens)
	tokens = explained(tokens)
	if len(tokens) == 0 {
		return
	}
	from, prepares := len(r.names), false
	switch rest := tokens[1:]; firstWord(tokens[0]) {
	case "set":
		r.readSet(rest, false)
	case "reset":
		r.readSet(rest, true)
	case "listen":
		r.plain |= touchListen
	case "load":
		r.plain |= touchLoad
	case "prepare":
		if len(rest) < 2 || !rest[0].Is("transaction") || rest[1].Kind != sqltext.String && rest[1].Kind != sqltext.Escapes {
			r.plain |= touchPrepare
			prepares = true
		}
	case "declare":
		if follows(tokens, "with", "hold") {
			r.plain |= touchCursor
		}
	case "create":
		if slices.ContainsFunc(tokens[:min(len(tokens), 6)], isTemp) {
			r.plain |= touchTemp
		}
	case "do":
		r.readDo(rest)
	}
	r.readCalls(tokens)
	r.vague = r.vague || prepares && len(r.names) > from // for EXECUTE does not tell which
}

// readMarks looks at each token by itself.
func (r *reading) readMarks(tokens []sqltext.Token) {
	settings, update, defines := false, false, definesFunctionPlainly(tokens)
	for i, t := range tokens {
		switch {
		case t.Kind == sqltext.Unterminated:
			r.broken = true
			r.hide()
		case t.Kind == sqltext.CodePoints && matters(tokens[i:]):
			r.hide()
		case t.Kind == sqltext.String && bytes.IndexByte(t.Text, '\\') >= 0:
			r.unsure = true
		case t.Kind == sqltext.String, t.Kind == sqltext.Dollar, t.Kind == sqltext.Escapes:
			r.readString(t, defines)
		case t.Is("into") && slices.ContainsFunc(tokens[i+1:min(len(tokens), i+3)], isTemp):
			r.plain |= touchTemp
		case isName(t, "pg_settings"):
			settings = true
		case t.Is("update"):
			update = true
		}
	}
	r.sets = r.sets || settings && update // a rule of that view calls set_config
}

// definesFunctionPlainly reports whether a statement creates a function or procedure.
func definesFunctionPlainly(tokens []sqltext.Token) bool {
	return len(tokens) > 0 && tokens[0].Is("create") && slices.ContainsFunc(tokens[:min(len(tokens), 4)], func(t sqltext.Token) bool {
		return t.Is("function") || t.Is("procedure")
	})
}

// readString takes note of what a string says of parameters. body is that it is one of a function: what is not plain to see in it counts.
func (r *reading) readString(t sqltext.Token, body bool) {
	p := readParameters(t.Body())
	r.quoted.config = r.quoted.config || p.config
	r.quoted.vague = r.quoted.vague || p.vague && body
	for _, name := range p.names {
		r.quoted.add(name)
	}
}

// hide takes note that anything may be executed.
func (r *reading) hide() { r.hidden, r.vague, r.path, r.closes = true, true, true, true }

// isTemp reports whether a token behind CREATE, or INTO, makes what is created temporary.
func isTemp(t sqltext.Token) bool {
	return t.Is("temp") || t.Is("temporary") ||
		(t.Kind == sqltext.Word || t.Kind == sqltext.Identifier) && bytes.HasPrefix(bytes.ToLower(t.Body()), []byte("pg_temp"))
}

// matters reports whether the identifier of code points at the front is a name that matters, or cannot be read.
func matters(tokens []sqltext.Token) bool {
	escape := byte('\\')
	if len(tokens) > 1 && tokens[1].Is("uescape") {
		if len(tokens) == 2 || tokens[2].Kind != sqltext.String || len(tokens[2].Body()) != 1 {
			return true
		}
		escape = tokens[2].Body()[0]
	}
	decoded, ok := sqltext.Decode(tokens[0].Body(), escape)
	name := strings.ToLower(decoded)
	return !ok || slices.Contains(keywords, name) || strings.HasPrefix(name, "pg_temp") ||
		strings.HasPrefix(name, "pg_prepared_statement") || strings.HasPrefix(decoded, namePrefix)
}

// isName reports whether a token is an identifier, with quotes or without, of that name, which is in lower case.
func isName(t sqltext.Token, name string) bool {
	return t.Is(name) || t.Kind == sqltext.Identifier && string(t.Body()) == name
}

// firstWord is the first word of a statement, in lower case.
func firstWord(t sqltext.Token) string {
	if t.Kind != sqltext.Word {
		return ""
	}
	return strings.ToLower(string(t.Text))
}

// explained is a statement without the EXPLAIN in front of it, which may execute it.
func explained(tokens []sqltext.Token) []sqltext.Token {
	if len(tokens) == 0 || !tokens[0].Is("explain") {
		return tokens
	}
	tokens = tokens[1:]
	depth := 0
	for i, t := range tokens {
		switch {
		case isSign(t, '('):
			depth++
		case isSign(t, ')'):
			depth--
		case depth > 0, t.Is("analyze"), t.Is("analyse"), t.Is("verbose"):
		default:
			return tokens[i:]
		}
	}
	return nil
}

// follows reports whether a word stands right behind another.
func follows(tokens []sqltext.Token, first, second string) bool {
	for i := 1; i < len(tokens); i++ {
		if tokens[i].Is(second) && tokens[i-1].Is(first) {
			return true
		}
	}
	return false
}

// readSet reads what stands behind SET or RESET.
func (r *reading) readSet(tokens []sqltext.Token, reset bool) {
	local := false
	if !reset && len(tokens) > 1 && !isSign(tokens[1], '.') {
		switch {
		case tokens[0].Is("transaction"), tokens[0].Is("constraints"):
			r.local = true
			return
		case tokens[0].Is("local"):
			local, tokens = true, tokens[1:]
		case tokens[0].Is("session"):
			tokens = tokens[1:]
		}
	}
	r.local, r.sets = r.local || local, r.sets || !local
	name, rest, plain := parameterName(tokens)
	if dotted := strings.Contains(name, "."); dotted && !local && !strings.HasSuffix(name, ".") {
		r.addName(name)
	}
	r.vague = r.vague || !plain && !local
	if (name == "search_path" || name == "schema" || !plain) && hidesValue(rest) {
		r.path = true
	}
}

// hidesValue reports whether it is not plain to see what a parameter is set to: for escapes, or as a string goes on in another line.
func hidesValue(tokens []sqltext.Token) bool {
	for i, t := range tokens {
		if t.Hides() || i > 0 && t.Kind == sqltext.String && isString(tokens[i-1]) {
			return true
		}
	}
	return false
}

func isString(t sqltext.Token) bool { return t.Kind == sqltext.String || t.Kind == sqltext.Escapes }

func (r *reading) addName(name string) {
	if !slices.Contains(r.names, name) && len(r.names) <= mostNames {
		r.names = append(r.names, name)
	}
}

// parameterName reads a name of one or more parts, in lower case, and returns what is behind it. plain is false where it cannot be read.
func parameterName(tokens []sqltext.Token) (name string, rest []sqltext.Token, plain bool) {
	for i := 0; i < len(tokens); i += 2 {
		t := tokens[i]
		body := t.Body()
		if t.Kind != sqltext.Word && t.Kind != sqltext.Identifier || len(wordAt(body)) != len(body) && bytes.IndexByte(body, '$') < 0 || !isPlainName(body) {
			return name, tokens[i:], false
		}
		if len(name) > longestSetName {
			return name, tokens[i:], false
		}
		name += strings.ToLower(string(body))
		if i+1 == len(tokens) || !isSign(tokens[i+1], '.') {
			return name, tokens[i+1:], true
		}
		name += "."
	}
	return name, nil, false
}

// readDo reads what stands behind DO: its body is read like any text, for words.
func (r *reading) readDo(tokens []sqltext.Token) {
	r.hidden = true
	for i, t := range tokens {
		switch {
		case t.Is("language"):
			if i+1 < len(tokens) && !isName(tokens[i+1], "plpgsql") {
				r.hide()
			}
		case t.Kind == sqltext.Escapes, t.Kind == sqltext.Unterminated:
			r.hide()
		case t.Kind == sqltext.String, t.Kind == sqltext.Dollar:
			r.readBody(t.Value())
		}
	}
}

// readBody reads the body of a DO.
func (r *reading) readBody(body []byte) {
	if r.depth++; r.depth > deepestRead {
		r.hide()
		return
	}
	defer func() { r.depth-- }()
	p := readParameters(body)
	for _, name := range p.names {
		r.addName(name)
	}
	words := readWords(body)
	r.plain |= words.found & touchPins &^ touchSet
	r.sets = r.sets || p.config || words.found&touchSet != 0
	r.vague = r.vague || p.vague
	r.readCode(body)
}

// readCode reads code in PL/pgSQL for SQL that it executes: by EXECUTE of a simple string, by DO, and by the functions that do. What cannot
// be read hides anything.
func (r *reading) readCode(body []byte) {
	var (
		tokens = sqltext.NewReader(body) // with a backslash in a string it hides anything, whatever that means
		last   sqltext.Token
		behind string // the word of those that matter behind which this stands: execute, execute and its string, or do
	)
	for t, ok := tokens.Next(); ok; t, ok = tokens.Next() {
		was := behind
		behind = ""
		switch {
		case t.Hides(), bytes.IndexByte(t.Text, '\\') >= 0:
			r.hide()
			return
		case was == "execute" && t.Kind == sqltext.String:
			r.read(t.Value())
			behind = "string"
		case was == "execute", was == "string" && !isSign(t, ';') && !t.Is("into") && !t.Is("using"):
			r.hide()
			return
		case was == "do" && (t.Kind == sqltext.String || t.Kind == sqltext.Dollar):
			r.readDo([]sqltext.Token{t})
		case was == "do" && t.Is("language"): // which may be another one
			r.hide()
			return
		case isSign(t, '('):
			if r.readCallOf(last) {
				r.hide()
			}
		case t.Is("execute"), t.Is("do"):
			behind = strings.ToLower(string(t.Text))
		}
		last = t
	}
	if behind == "execute" {
		r.hide()
	}
}

// call is a function call, or whatever else is in parentheses, while it is read.
type call struct {
	config bool
	from   int    // where its first argument begins
	commas [3]int // where the first of them are
	n      int    // how many there are
}

// readCalls looks at function calls.
func (r *reading) readCalls(tokens []sqltext.Token) {
	var open []call
	for i, t := range tokens {
		switch {
		case isSign(t, '('):
			c := call{from: i + 1}
			if i > 0 {
				c.config = isName(tokens[i-1], "set_config")
				if r.readCallOf(tokens[i-1]) {
					r.readInterpreted(tokens[i+1:])
				}
			}
			open = append(open, c)
		case len(open) == 0:
		case isSign(t, ','):
			c := &open[len(open)-1]
			if c.n < len(c.commas) {
				c.commas[c.n] = i
			}
			c.n++
		case isSign(t, ')'):
			if c := open[len(open)-1]; c.config {
				r.readConfig(tokens, c, i)
			}
			open = open[:len(open)-1]
		}
	}
	if slices.ContainsFunc(open, func(c call) bool { return c.config }) {
		r.sets, r.local, r.vague = true, true, true
	}
}

// readCallOf looks at the name of a function that is called, and reports whether it executes its arguments.
func (r *reading) readCallOf(function sqltext.Token) (executes bool) {
	if function.Kind != sqltext.Word && function.Kind != sqltext.Identifier {
		return false
	}
	name := strings.ToLower(string(function.Body()))
	r.plain |= callsThatMatter[name]
	return slices.Contains(interpreters, name)
}

// readInterpreted reads the arguments of a function that executes them, up to the parenthesis: where they are anything but simple strings and
// the like, that may be anything.
func (r *reading) readInterpreted(tokens []sqltext.Token) {
	r.hidden = true
	if r.depth++; r.depth <= deepestRead {
		defer func() { r.depth-- }()
		for i, t := range tokens {
			next := sqltext.Token{Kind: sqltext.Unterminated}
			if i+1 < len(tokens) {
				next = tokens[i+1]
			}
			switch {
			case isSign(t, ')'):
				return
			case t.Kind == sqltext.String && t.Text[0] == '\'' && bytes.IndexByte(t.Text, '\\') < 0 && (isSign(next, ',') || isSign(next, ')')):
				r.read(t.Value())
				continue
			case t.Kind == sqltext.Dollar:
				r.read(t.Body())
				continue
			case t.Kind == sqltext.Number, isSign(t, ','), t.Is("true"), t.Is("false"), t.Is("null"):
				continue
			}
			r.hide()
			return
		}
	}
	r.hide()
}

// readConfig reads the call c of set_config, which ends at end.
func (r *reading) readConfig(tokens []sqltext.Token, c call, end int) {
	if c.n != 2 {
		r.sets, r.vague, r.path = true, true, true
		return
	}
	name, plain := literalOf(tokens[c.from:c.commas[0]])
	name = strings.ToLower(name)
	local := tokens[c.commas[1]+1 : end]
	if len(local) == 1 && local[0].Is("true") {
		r.local = true
	} else {
		r.sets, r.local = true, true
		r.vague = r.vague || !plain || !isASCII(name)
		if strings.Contains(name, ".") {
			r.addName(name)
		}
	}
	if _, readable := literalOf(tokens[c.commas[0]+1 : c.commas[1]]); !readable && (!plain || name == "search_path") {
		r.path = true
	}
}

// literalOf is the text of an argument that is a simple string, with or without ::text behind it.
func literalOf(argument []sqltext.Token) (text string, ok bool) {
	cast := len(argument) == 4 && isSign(argument[1], ':') && isSign(argument[2], ':') && argument[3].Is("text")
	if len(argument) != 1 && !cast || argument[0].Kind != sqltext.String {
		return "", false
	}
	text = string(argument[0].Body())
	return text, !strings.ContainsAny(text, `'\`) && argument[0].Text[0] == '\''
}

// touchReadable are what the tokens of a text tell more about than words do.
const touchReadable = touchPins&^touchLarge | touchConfig | touchLocal | touchHidden

// settled replaces what the scanner has found in a text by what its tokens say; nil stands for a text that was not kept. plain is what
// statements and calls in plain sight leave, names are the parameters that have to be asked for by name.
//
// What the server can be asked about is asked about also where only a string says it, for some function may execute that.
func (t touch) settled(text []byte) (found, plain touch, names []string) {
	if t&touchReadable == 0 {
		return t, t, nil
	}
	if text == nil || len(text) > longestRead {
		found, names = t.settledByWords(nil)
		if t&touchOpenly != 0 {
			found |= touchSet | touchUnnamed | touchClose
		}
		return found&^touchOpenly | touchPath, t, names
	}
	t &^= touchOpenly
	r := readTokens(text)
	switch {
	case r.unsure:
		return t.settledUnsure(text, r, readEscaped(text))
	case t&(touchSet|touchConfig) != 0 && !r.sets && !r.local && !r.hidden && !r.vague:
		found, names = t.settledByWords(text)
		return found&^touchLasting | r.plain&touchLasting, r.plain, names
	}
	found = t&(touchVerifiable|touchRelease|touchLarge|touchCreate)&^touchSet | r.plain&touchLasting
	names = r.names
	for _, says := range []struct {
		is    bool
		touch touch
	}{{r.sets, touchSet}, {r.local, touchLocal}, {r.vague, touchSet | touchUnnamed}, {r.hidden, touchHidden}, {r.path, touchPath}, {r.closes, touchClose}} {
		if says.is {
			found |= says.touch
		}
	}
	if t&(touchSet|touchConfig) != 0 && (r.quoted.config || r.quoted.vague || len(r.quoted.names) > 0) {
		found |= touchSet
		for _, name := range r.quoted.names {
			r.addName(name)
		}
		if names = r.names; r.quoted.vague || len(names) > mostNames {
			found |= touchUnnamed
		}
	}
	if len(names) > 0 && found&touchSet != 0 {
		found |= touchNamed
	}
	return found, r.plain, names
}

// settledUnsure is settled for a text whose strings end here or there, as standard_conforming_strings is on or off: it is taken to say what
// it says either way, and what its words do.
func (t touch) settledUnsure(text []byte, on, off reading) (found, plain touch, names []string) {
	found, _ = t.settledByWords(text)
	found |= touchPath
	all := readParameters(text)
	for _, r := range []reading{on, off} {
		if r.broken {
			continue
		}
		if r.hidden {
			found |= touchHidden
		}
		if r.vague {
			found |= touchSet | touchUnnamed
		}
		if r.closes {
			found |= touchClose
		}
		for _, name := range r.names {
			all.add(name)
		}
	}
	if len(all.names) > 0 && found&touchSet != 0 {
		found |= touchNamed
		names = all.names
	}
	return found, t, names
}
