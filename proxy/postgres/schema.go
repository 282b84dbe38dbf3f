package postgres

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy/postgres/sqltext"
)

// A statement means what it meant when it was prepared: the types of its parameters, and of its result, are those of the tables and types of
// that time. Clients share it, so that one that prepares it now might get what somebody else has prepared before a table was altered. So a
// content is for those who prepare it until the schema changes, as far as that is known, or it is too old. Then there is another one of the
// same text, under another number; who has prepared it before keeps the one that he has.
//
// It is known of what is done through weir, by what the text says and by the tags of commands.

// isFresh reports whether c means to the server what it would mean to one that prepares it now, as far as is known.
func (r *resource) isFresh(c *content, now int64) bool {
	return c.schema == r.schema.Load() && (r.maxAge <= 0 || now-c.made < int64(r.maxAge))
}

// changesSchema reports whether SQL, in which t was found, may create, alter or drop what statements are about. Temporary tables concern
// nobody else.
func changesSchema(sql []byte, t touch) bool {
	first := wordAt(skipComments(sql))
	switch {
	case equalWord(first, "create"):
		return t&touchTemp == 0
	case equalWord(first, "alter"), equalWord(first, "drop"), equalWord(first, "import"):
		return true
	case equalWord(first, "do"):
		return hasWord(sql, "create", "alter", "drop", "into")
	case t&touchCreate != 0 && t&touchTemp == 0 && (equalWord(first, "select") || equalWord(first, "with") || equalWord(first, "explain")):
		return true // SELECT INTO, EXPLAIN ANALYZE CREATE TABLE AS
	}
	end := bytes.IndexByte(sql, ';')
	switch {
	case end < 0, len(sqltext.SkipBlanks(sql[end+1:])) == 0:
		return false
	case t&touchTemp != 0:
		return hasWord(sql[end:], "alter", "import")
	}
	return hasWord(sql[end:], "create", "alter", "drop", "import")
}

// schemaTags are the first words of the tags of commands that change the schema.
var schemaTags = []string{"CREATE ", "ALTER ", "DROP ", "IMPORT "}

// temporaryTags are those that concern nobody else, where the session has temporary tables.
var temporaryTags = []string{"CREATE TABLE", "CREATE TABLE AS", "CREATE INDEX", "CREATE VIEW", "CREATE SEQUENCE", "DROP TABLE"}

// hearSchema takes note of a command that changes the schema.
func (k *link) hearSchema(tag []byte) {
	for _, t := range schemaTags {
		if bytes.HasPrefix(tag, []byte(t)) {
			command := string(bytes.TrimSuffix(tag, []byte{0}))
			k.altering = k.altering || !k.temporary() || !slices.Contains(temporaryTags, command)
		}
	}
}

// temporary reports whether the session may have temporary tables, which hide those of the same names from it alone. One whose search path
// names them need not have any: it has once it keeps its server connection for that.
func (k *link) temporary() bool {
	t := k.pinned
	if !k.session.profile.Temporary() {
		t |= k.words.found | k.outer
	}
	return t&touchTemp != 0
}

// schemaSettled is called when a transaction is over: what it has altered holds for all.
func (k *link) schemaSettled() {
	if k.altering {
		k.session.resource.schema.Add(1)
		k.altering = k.answers.has(queried)
	}
}

// isStale reports whether an error may be that a statement was prepared before what it is about was made anew. The text is read anew then,
// but with the types that its parameters had, and is looked for by what they were called inside.
func isStale(e *pgwire.Error) bool {
	if e.Context != "" {
		return false
	}
	switch e.Code {
	case "XX000":
		return bytes.HasPrefix([]byte(e.Message), []byte("cache lookup failed"))
	case "42P18", "42883", "42704", "42804", "42846", "42725": // types that do not fit, or that there are not
		return true
	}
	return false
}

// renew has the session use what a answers about as it would be prepared now, where it has not been told what that returns, and reports
// whether it does. Others who prepare it do from now on; who had it before keeps it.
func (k *link) renew(a *answer) bool {
	c, t := a.content, k.session.statements
	if c.key == "" || t == nil {
		return false
	}
	if a.untold {
		var name []byte
		if a.use > 0 && a.use <= len(k.used) {
			name = k.used[a.use-1].name
		}
		k.tell(name, 0)
	}
	now := k.session.renewed(c)
	found := false
	if t.unnamed.content == c && t.unnamed.told == 0 {
		t.unnamed.content, found = now, true
	}
	for name, st := range t.named {
		if st.content == c && st.told == 0 {
			k.session.set(name, now)
			found = true
		}
	}
	return found
}

// learn takes note of the types of a statement's parameters, which a client is told. Where the statement is prepared again for those who
// have it, they are as they were.
func (k *link) learn(body []byte) {
	if k.answers.empty() {
		return
	}
	c := k.answers.first().content
	if c == nil || k.answers.first().kind != described || c.types.Load() != nil || len(body) < 2 || len(body) != 2+4*int(binary.BigEndian.Uint16(body)) {
		return
	}
	types := string(body)
	c.types.Store(&types)
}

// prepared is what a server is to prepare for those who have c prepared.
func (c *content) prepared() string {
	types := c.types.Load()
	if sql, _, ok := strings.Cut(c.text, "\x00"); ok && types != nil && len(*types) > 2 {
		return sql + "\x00" + *types
	}
	return c.text
}
