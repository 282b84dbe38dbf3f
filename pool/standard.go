package pool

import (
	"maps"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/pgwire"
)

// What a server connection has from the start may change at any time: a role or a database gets other defaults, a configuration is
// reloaded, a standby is promoted, a name means another host. Connections tell what they have; what they tell is put
// together here.

// standards are what the servers of a pool were seen to give their connections from the start.
type standards struct {
	mu        sync.Mutex
	byAddress map[string]*defaults
}

// defaults are what connections to one address have from the start, those opened while that was so.
type defaults struct {
	parameters map[string]string // as reported; guarded by the lock of the standards
	replaced   atomic.Bool       // a newer connection has others
}

// equal compares with what a new connection reports. What is fixed is reported anew by all connections to a server, wherever it changes.
func (d *defaults) equal(reported map[string]string) bool {
	for name, value := range reported {
		if !isFixed(name) && d.parameters[name] != value {
			return false
		}
	}
	return true
}

// welcome takes note of what a new connection reports, for the clients to come. What was asked of a server with other defaults is
// forgotten, and older connections to the same address are replaced when they come back.
func (p *Pool) welcome(d *Dialed) *defaults {
	reported := maps.Clone(d.hijacked.ParameterStatuses)
	t := &p.standards
	t.mu.Lock()
	defer t.mu.Unlock()
	had := t.byAddress[d.addr]
	changed := had != nil && !had.equal(reported)
	if had == nil || changed {
		if changed {
			had.replaced.Store(true)
			p.budget.log.Info("the server has other defaults for new connections; older ones are replaced when they come back")
		}
		if t.byAddress == nil {
			t.byAddress = make(map[string]*defaults)
		}
		had = &defaults{parameters: maps.Clone(reported)}
		t.byAddress[d.addr] = had
	}
	if old := p.standard.Load(); old == nil || !maps.Equal(old.Greeting.Parameters, reported) {
		p.replaceStandardLocked(old, reported, changed)
	}
	return had
}

// replaceStandardLocked has clients to come be told what is reported now; old, which may be nil, is what was told before. What was asked for
// beside it is forgotten where it may have come to something else, but not where another host of several has another configuration.
func (p *Pool) replaceStandardLocked(old *Profile, reported map[string]string, forget bool) {
	p.standard.Store(newProfile(nil, &Greeting{Parameters: reported}))
	p.adopted.forget()
	switch {
	case old == nil:
	case forget:
		p.asked.forget()
	default:
		var facts []Setting
		for name, value := range reported {
			if isFact(name) && old.Greeting.Parameters[name] != value {
				facts = append(facts, Setting{name, value})
			}
		}
		p.asked.inform(facts)
	}
}

// learn takes note that a server reports another value of a parameter than it did, which no session has set.
func (p *Pool) learn(s *Server, name, value string) {
	t := &p.standards
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.defaults != nil {
		s.defaults.parameters[name] = value
	}
	old := p.standard.Load()
	if old == nil || old.Greeting.Parameters[name] == value {
		return
	}
	reported := maps.Clone(old.Greeting.Parameters)
	reported[name] = value
	p.replaceStandardLocked(old, reported, !isFact(name))
}

// NoteParameter remembers the body of a ParameterStatus.
func (s *Server) NoteParameter(body []byte) { s.noteParameter(body, false) }

// noteParameter does, and knows whether the server has said it although no session was there to set anything.
func (s *Server) noteParameter(body []byte, idle bool) {
	name, rest, _ := pgwire.CString(body)
	value, _, ok := pgwire.CString(rest)
	if !ok || s.params[string(name)] == string(value) {
		return
	}
	s.note(string(name), string(value), idle)
}

func (s *Server) note(name, value string, idle bool) {
	s.params[name] = value
	s.suits = nil
	if idle || isFixed(name) {
		s.noteDefault(name, value)
	}
}

// noteDefault takes note that s has a parameter from the start, from now on, whatever it was before.
func (s *Server) noteDefault(name, value string) {
	s.base[name] = value
	s.pool.learn(s, name, value)
	if require := s.pool.require; require != nil && !require(s.base) {
		s.Unfit()
	}
}

// Unfit has s be closed when it comes back: it is not, or no longer, what clients of this pool are to have.
func (s *Server) Unfit() { s.unsafe = true }

// RefusedWrite takes note that the server has refused to write (SQLSTATE 25006), which may be the session's own wish. Where it matters which
// server this is, another connection is opened.
func (s *Server) RefusedWrite() {
	if s.pool.require != nil {
		s.Unfit()
	}
}

// IsDefault reports whether a parameter that is reported has the value that s has from the start.
func (s *Server) IsDefault(name, value string) bool { return s.base[name] == value }

// reported is the set of a parameter that sessions may set and s reports, empty for any other.
func (s *Server) reported(name string) keptSet {
	if _, ok := lookupFold(s.params, name); ok {
		return setOf(name)
	}
	return 0
}

// Discarded takes note that nothing is left of what sessions have set, or prepared, or will not be when the server has come so far.
func (s *Server) Discarded() {
	s.Prepared.Clear()
	s.Settings, s.explicit, s.suits = nil, 0, nil
	for name := range s.params {
		if !isFixed(name) {
			s.params[name] = s.base[name]
		}
	}
}

// IsExplicit reports whether anything that is reported was set on s.
func (s *Server) IsExplicit() bool { return s.explicit != 0 }

// Keeps reports whether clients are told of a parameter, and keep it as they were told.
func Keeps(name string) bool { return setOf(name) != 0 }

// Require has only connections be lent of which is reports that they are what is wanted, by what they report without a session having
// set it. It is called before the first connection is opened.
func (p *Pool) Require(is func(reported map[string]string) bool) { p.require = is }

// lookInterval is how often, at most, a server that takes no writes is looked at again, while clients log in.
const lookInterval = time.Second

// lookAgain has a server that is in recovery, or read-only, say whether it still is: it tells only whoever asks for something. That
// clients may never do, because of what they are told at login.
func (p *Pool) lookAgain() {
	standard := p.standard.Load()
	if standard == nil || !standard.readOnly() {
		return
	}
	now, last := time.Now().UnixNano(), p.looked.Load()
	if now-last < int64(lookInterval) || !p.looked.CompareAndSwap(last, now) {
		return
	}
	if s := p.takeIdle(); s != nil {
		l := s.Conn.Loop()
		l.Post(eventloop.TaskFunc(func() { s.Reset(l, Leftover{Status: pgwire.Idle, Look: true}) }))
	}
}

// readOnly reports whether a server says that it takes no writes.
func (p *Profile) readOnly() bool {
	return p.Greeting.Parameters["in_hot_standby"] == "on" || p.Greeting.Parameters["default_transaction_read_only"] == "on"
}

// takeIdle takes the connection off the shelf that has rested for longest, nil if there is none.
func (p *Pool) takeIdle() *Server {
	b := p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(p.idle) == 0 {
		return nil
	}
	b.counts.Used++
	return p.takeLocked(0)
}

// SessionAttrs is what a connection has to report for as long as it lives, where target_session_attrs of the connection string asks for
// something that may change; nil otherwise.
func SessionAttrs(cfg *pgconn.Config) func(reported map[string]string) bool {
	on := func(name string, reported map[string]string) bool { return reported[name] == "on" }
	tells := func(reported map[string]string) bool { return reported["in_hot_standby"] != "" } // as PostgreSQL does from 14 on
	writable := func(reported map[string]string) bool {
		return !on("in_hot_standby", reported) && !on("default_transaction_read_only", reported)
	}
	for _, attrs := range []struct {
		validate pgconn.ValidateConnectFunc
		holds    func(reported map[string]string) bool
	}{
		{pgconn.ValidateConnectTargetSessionAttrsReadWrite, writable},
		{pgconn.ValidateConnectTargetSessionAttrsReadOnly, func(r map[string]string) bool { return !tells(r) || !writable(r) }},
		{pgconn.ValidateConnectTargetSessionAttrsPrimary, func(r map[string]string) bool { return !on("in_hot_standby", r) }},
		{pgconn.ValidateConnectTargetSessionAttrsStandby, func(r map[string]string) bool { return !tells(r) || on("in_hot_standby", r) }},
	} {
		// pgconn has no field for the word itself, only for the function that it stands for.
		if cfg.ValidateConnect != nil && reflect.ValueOf(cfg.ValidateConnect).Pointer() == reflect.ValueOf(attrs.validate).Pointer() {
			return attrs.holds
		}
	}
	return nil
}
