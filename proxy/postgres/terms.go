package postgres

import (
	"bytes"
	"fmt"

	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/proxy"
)

// ownParameters is what the names of parameters begin with by which functions say something of themselves.
const ownParameters = "weir."

// mostIgnored is how many mistakes in what it says of itself a client is told of.
const mostIgnored = 8

// says is who a client is, and what it says of itself.
type says struct {
	identity limiter.Identity
	startup  limiter.Terms // at startup
	now      limiter.Terms // what holds for its transactions now
}

// introduce finds out who the client of a new session is, and returns what it said that is ignored.
func (s *session) introduce(id limiter.Identity, st *startup) (ignored []error) {
	id.ApplicationName, _ = s.setting("application_name")
	s.heard = s.profile
	if callers := s.resource.gate.Callers(); st.terms != (limiter.Terms{}) || callers.Ruled() {
		s.says = &says{identity: id, startup: st.terms, now: st.terms}
	}
	s.caller = s.resource.gate.Callers().Find(id)
	ignored = st.ignored
	if err := overclaims(s.caller, st.terms); err != nil {
		ignored = append(ignored, err)
	}
	return ignored
}

// setting is the value of one of the session's run-time parameters.
func (s *session) setting(name string) (string, bool) {
	if value, ok := s.profile.Settings.Get(name); ok {
		return value, true
	}
	value, ok := s.profile.Greeting.Parameters[name]
	return value, ok
}

// hear takes in what the session has said of itself by SET since the last transaction.
func (s *session) hear() {
	if s.heard == s.profile {
		return
	}
	s.heard = s.profile
	var said limiter.Terms
	if s.says != nil {
		said = s.says.startup
	}
	for _, name := range []string{"deadline", "priority", "caller"} {
		if value, ok := s.profile.Settings.Get(ownParameters + name); ok {
			if err := said.Set(name, value); err != nil {
				s.notify(err)
			}
		}
	}
	if s.says == nil && said == (limiter.Terms{}) {
		return
	}
	if s.says == nil {
		s.says = new(says)
	}
	s.says.now = said
	if s.resource.gate.Callers().Ruled() {
		s.says.identity.ApplicationName, _ = s.setting("application_name")
		s.says.identity.Says = said.Caller
		s.caller = s.resource.gate.Callers().Find(s.says.identity)
	}
	if err := overclaims(s.caller, said); err != nil {
		s.notify(err)
	}
}

// overclaims says so where a function claims a priority that its caller may not have.
func overclaims(c *limiter.Caller, said limiter.Terms) error {
	if _, granted := c.Claim(said.Level); said.Claims && !granted {
		return fmt.Errorf("weir.priority: %s is more than caller %q may claim; it is served as %s", said.Level, c.Name, c.Highest)
	}
	return nil
}

// notify tells the client, which has nothing under way, that something it said is ignored.
func (s *session) notify(err error) { s.write(pgwire.AppendNotice(nil, notice(err))) }

func notice(err error) *pgwire.Error {
	return &pgwire.Error{Severity: "WARNING", Code: "01000", Message: "ignored: " + err.Error()}
}

// request is what the gate is asked for the transaction that begins with the message at the front of chunk.
func (s *session) request(chunk []byte) proxy.Request {
	s.hear()
	r := proxy.Request{Caller: s.caller, Level: s.caller.Level, Now: s.w.loop.Now()}
	var said limiter.Terms
	if s.says != nil {
		said = s.says.now
	}
	sql, class, speaks := s.firstStatement(chunk)
	if r.Class = class; class == 0 && len(sql) > 0 {
		r.Class = limiter.FingerprintOf(sql)
	}
	if speaks {
		s.hearComment(sql, &said, &r)
	}
	if said.Claims {
		r.Level, _ = r.Caller.Claim(said.Level)
	}
	r.Deadline = said.Deadline
	return r
}

// hearComment takes in what a function says of one transaction.
func (s *session) hearComment(sql []byte, said *limiter.Terms, r *proxy.Request) {
	before := *said
	if err := said.ReadComment(sql); err != nil {
		s.notify(err)
	}
	if callers := s.resource.gate.Callers(); said.Caller != before.Caller && callers.Ruled() {
		id := s.says.identity
		id.Says = said.Caller
		r.Caller = callers.Find(id)
		r.Level = r.Caller.Level
	}
	if err := overclaims(r.Caller, *said); err != nil && *said != before {
		s.notify(err)
	}
}

// firstStatement is the text that the message at the front of chunk is about, as much of it as has come, its class if that is
// known, and whether there is a comment ahead of it.
func (s *session) firstStatement(chunk []byte) (sql []byte, class limiter.Fingerprint, speaks bool) {
	body, err := pgwire.Length(chunk)
	if err != nil {
		return nil, 0, false
	}
	have := chunk[pgwire.HeaderSize:min(len(chunk), pgwire.HeaderSize+body)]
	switch chunk[0] {
	case pgwire.Query:
		sql = bytes.TrimSuffix(have, []byte{0})
		return sql, 0, limiter.HasComment(sql)
	case pgwire.Parse:
		if _, rest, ok := pgwire.CString(have); ok {
			if sql, _, ok = pgwire.CString(rest); !ok {
				sql = rest
			}
		}
		return sql, 0, limiter.HasComment(sql)
	case pgwire.Bind, pgwire.Describe:
		if _, name, ok := nameIn(chunk[0], have); ok {
			if c := s.statements.find(name).content; c != nil {
				if c.speaks {
					sql = c.sql()
				}
				return sql, c.class, c.speaks
			}
		}
	}
	return nil, 0, false
}

var _ limiter.Waker = (*link)(nil)
