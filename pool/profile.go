package pool

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Greeting is what the server reports to a client that logs in. It never changes.
type Greeting struct {
	Parameters map[string]string // by ParameterStatus
}

// Profile is what a session has set, and what its client was told of all that is reported: it runs with both, whatever server
// connection it gets. Equal ones are mostly the same pointer. It never changes.
type Profile struct {
	Settings *Settings // asked for at startup, or set since
	Greeting *Greeting // of a parameter that is reported, this value holds

	plan      string
	temporary bool
	asked     keptSet // those of Settings
}

func newProfile(s *Settings, g *Greeting) *Profile {
	p := &Profile{Settings: s, Greeting: g, plan: planOf(s, g), temporary: isTemporary(s, g)}
	for name := range g.Parameters {
		if set := setOf(name); s.Has(name) {
			p.asked |= set
		}
	}
	return p
}

// Of the parameters that a server reports (manual, "Asynchronous Operations"), these are a session's own choice. They stay as its
// client was told them: it reads what it receives, and writes what it sends, by them.
var kept = []string{
	"application_name", "client_encoding", "datestyle", "intervalstyle", "scram_iterations", "search_path",
	"standard_conforming_strings", "timezone",
}

// keptSet is a set of them, a bit each.
type keptSet uint8

// setOf is the set of the parameter with that name, in any case; empty for all others.
func setOf(name string) keptSet {
	for i, k := range kept {
		if equalFold(k, name) {
			return 1 << i
		}
	}
	return 0
}

// isFact reports whether a parameter that is reported is a fact about the server. Nobody sets it for a session: clients are told when it
// changes. is_superuser and session_authorization follow from a session's role, which is among its Settings.
func isFact(name string) bool { return setOf(name) == 0 && !isDerived(name) }

// isDerived reports whether a parameter that is reported follows from a session's role.
func isDerived(name string) bool { return name == "is_superuser" || name == "session_authorization" }

// isFixed reports whether it is a fact that no session can change for itself.
func isFixed(name string) bool { return isFact(name) && name != "default_transaction_read_only" }

// unplanned are parameters that make no difference to what a statement means, or to how it is planned.
var unplanned = []string{
	"application_name", "client_min_messages", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
	"idle_session_timeout", "scram_iterations",
}

// Plan is equal for profiles under which a statement means the same and is planned alike.
func (p *Profile) Plan() string { return p.plan }

func planOf(s *Settings, g *Greeting) string {
	list := s.list()
	for name, value := range g.Parameters {
		if setOf(name) != 0 {
			list = append(list, Setting{name, value})
		}
	}
	list = slices.DeleteFunc(canonical(list), func(l Setting) bool { return slices.Contains(unplanned, l.Name) })
	sum := sha256.Sum256([]byte(keyOf(list)))
	return string(sum[:16])
}

// Temporary reports whether tables may be temporary without anybody saying so: the search path names their schema.
func (p *Profile) Temporary() bool { return p.temporary }

func isTemporary(s *Settings, g *Greeting) bool {
	path, ok := g.Parameters["search_path"]
	if !ok {
		path, _ = s.get("search_path")
	}
	return strings.Contains(path, "pg_temp")
}

// key is equal for equal profiles.
func (p *Profile) key() string {
	var reported []Setting
	for name, value := range p.Greeting.Parameters {
		reported = append(reported, Setting{name, value})
	}
	return p.Settings.identifies() + "\x00" + keyOf(canonical(reported))
}

// with is p for a client that was told of these parameters since.
func (p *Profile) with(told []Setting) *Profile {
	parameters := maps.Clone(p.Greeting.Parameters)
	for _, t := range told {
		parameters[t.Name] = t.Value
	}
	return newProfile(p.Settings, &Greeting{Parameters: parameters})
}

// Inform returns the profile of a session with profile was whose client was told of these parameters since.
func (p *Pool) Inform(was *Profile, told []Setting) *Profile {
	return p.adopted.one(was.with(told))
}

// Adopt returns the profile of a session whose server connection s has the settings list by now, in the server's own words. was
// is what it had before, startup what it had at startup, which holds again of what is not in the list any more. With reset,
// its client has asked for that; without, a parameter that is reported has another value because the configuration of the server
// has changed, and a role that is missing was left.
func (p *Pool) Adopt(s *Server, list []Setting, startup, was *Profile, reset bool) *Profile {
	reported := s.Greeting().Parameters
	s.explicit = 0
	var own []Setting
	for _, l := range list {
		if asked, _ := startup.Settings.get(strings.ToLower(l.Name)); reset && l.Value == "" && asked != "" && strings.Contains(l.Name, ".") {
			continue // what is left of a parameter that an application has made up
		}
		set := s.reported(l.Name)
		s.explicit |= set
		told, _ := lookupFold(was.Greeting.Parameters, l.Name)
		if set&^was.asked == 0 || l.Value != told { // it was not we who have set it
			own = append(own, l)
		}
	}
	s.Settings = settingsOf(own)
	for name, value := range reported {
		set := setOf(name)
		before, greeted := startup.Greeting.Parameters[name]
		switch {
		case s.Settings.Has(name) || s.explicit&set != 0 || !greeted:
		case set != 0 && reset:
			reported[name] = before
		case value != was.Greeting.Parameters[name] && !isDerived(name): // as it was told
			s.noteDefault(name, value)
		}
	}
	for i := range startup.Settings.len() {
		name, value := startup.Settings.names[i], startup.Settings.values[i]
		switch {
		case s.Settings.Has(name):
		case name == "role" && !reset:
			own = append(own, Setting{name, "none"})
		default:
			own = append(own, Setting{name, value})
		}
	}
	return p.adopted.one(newProfile(settingsOf(own), &Greeting{Parameters: reported}))
}

// Adopted takes note that a session has set on s what has given it the profile p.
func (s *Server) Adopted(p *Profile) {
	s.Settings = p.Settings
	s.explicit |= p.asked
}

// intern finds the one Profile of equal ones.
type intern struct {
	mu           sync.Mutex
	known, older map[string]*Profile // what is looked up is among the known from then on
	bytes        int                 // of the keys of the known
}

// internMost bounds how many different profiles are remembered, internMostBytes how many bytes of keys, of which each profile needs a few
// times as many: twice as many. Beyond, those go that were not looked up for longest.
const (
	internMost      = 1024
	internMostBytes = 2 << 20
)

func (n *intern) find(key string) *Profile {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.findLocked(key)
}

func (n *intern) findLocked(key string) *Profile {
	if p := n.known[key]; p != nil {
		return p
	}
	p := n.older[key]
	if p != nil {
		delete(n.older, key)
		n.rememberLocked(key, p)
	}
	return p
}

// one is the profile that is equal to p and was remembered first.
func (n *intern) one(p *Profile) *Profile { return n.add(p.key(), p) }

// add remembers p, unless another was remembered first, which it then returns.
func (n *intern) add(key string, p *Profile) *Profile {
	n.mu.Lock()
	defer n.mu.Unlock()
	if first := n.findLocked(key); first != nil {
		return first
	}
	n.rememberLocked(key, p)
	return p
}

func (n *intern) rememberLocked(key string, p *Profile) {
	if n.known == nil || len(n.known) >= internMost || n.bytes+len(key) > internMostBytes {
		n.older, n.known, n.bytes = n.known, make(map[string]*Profile), 0 // harmless: profiles that are in use stay valid, only equality may be missed
	}
	n.known[key] = p
	n.bytes += len(key)
}

func (n *intern) drop(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[key] != nil {
		n.bytes -= len(key)
		delete(n.known, key)
	}
	delete(n.older, key)
}

func (n *intern) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forgetLocked()
}

func (n *intern) forgetLocked() {
	clear(n.known)
	clear(n.older)
	n.bytes = 0
}

// inform has all that are remembered be of clients that were told of these parameters.
func (n *intern) inform(told []Setting) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range []map[string]*Profile{n.known, n.older} {
		for key, p := range m {
			m[key] = p.with(told)
		}
	}
}
