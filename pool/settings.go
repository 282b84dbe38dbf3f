package pool

import (
	"slices"
	"sort"
	"strings"
)

// Settings are run-time parameters that a session has beyond those of every server connection. nil stands for none. Equal
// ones are mostly the same pointer, so that comparing them costs nothing. They never change.
type Settings struct {
	names, values []string // sorted by name, in lower case: to the server it makes no difference
	key           string
	calming       string    // see there
	toRest        string    // has the connection rest
	resting       *Settings // what stays of them while the connection rests; mostly themselves
}

// Setting is one parameter.
type Setting struct{ Name, Value string }

func newSettings(asked []Setting) *Settings {
	list := canonical(asked)
	s := &Settings{key: keyOf(list), calming: calming(list)}
	for _, l := range list {
		s.names, s.values = append(s.names, l.Name), append(s.values, l.Value)
	}
	s.resting, s.toRest = restingOf(s)
	return s
}

// settingsOf is newSettings, nil for none.
func settingsOf(list []Setting) *Settings {
	if len(list) == 0 {
		return nil
	}
	return newSettings(list)
}

// canonical is asked, as a list of its own, in lower case, sorted by name, each name once: the last one given holds.
func canonical(asked []Setting) []Setting {
	list := make([]Setting, 0, len(asked))
	for _, a := range asked {
		list = append(list, Setting{strings.ToLower(a.Name), a.Value})
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	once := list[:0]
	for i, l := range list {
		if i+1 == len(list) || list[i+1].Name != l.Name {
			once = append(once, l)
		}
	}
	return once
}

// keyOf is equal for equal lists of canonical settings.
func keyOf(list []Setting) string {
	var key strings.Builder
	for _, l := range list {
		key.WriteString(l.Name)
		key.WriteByte(0)
		key.WriteString(l.Value)
		key.WriteByte(0)
	}
	return key.String()
}

func (s *Settings) get(name string) (string, bool) {
	if s == nil {
		return "", false
	}
	i := sort.SearchStrings(s.names, name)
	if i < len(s.names) && s.names[i] == name {
		return s.values[i], true
	}
	return "", false
}

// identity are the parameters that decide what the others may be set to: they are left first, and entered last.
var identity = []string{"role", "session_authorization"}

// Suits reports whether a session with the profile p may run on s as it is, for all that is known.
func (s *Server) Suits(p *Profile) bool { return s.suits == p && s.Settings == p.Settings }

// Differs are the parameters that s reports otherwise than a client with the profile p was told.
func (s *Server) Differs(p *Profile) (list []Setting) {
	for name, value := range s.params {
		if told, ok := p.Greeting.Parameters[name]; ok && told != value {
			list = append(list, Setting{name, value})
		}
	}
	return list
}

// News are the facts about the server, as it reports them, of which a client with the profile p was told otherwise.
func (s *Server) News(p *Profile) (news []Setting) {
	for name, value := range s.params {
		if p.Greeting.Parameters[name] != value && isFact(name) && !p.Settings.Has(name) && !s.Settings.Has(name) {
			news = append(news, Setting{name, value})
		}
	}
	return news
}

// Suit appends the Query that has a session with the profile p run on s with all that it has set, and was told. It appends
// nothing when it would anyway.
//
// The Query changes all or nothing, and where it fails the session is left in a failed transaction, so that nothing takes
// effect that was sent behind it, but for what ends that: nothing else has to wait for its answer.
func (s *Server) Suit(dst []byte, p *Profile) []byte {
	c := change{sure: true}
	s.suit(&c, p)
	return c.append(dst)
}

// SuitKeeping is Suit that leaves the unnamed statement: what it appends are messages of the extended protocol, with the same outcome and one
// ReadyForQuery.
func (s *Server) SuitKeeping(dst []byte, p *Profile) []byte {
	c := change{sure: true, each: true}
	s.suit(&c, p)
	return c.appendEach(dst)
}

func (s *Server) suit(c *change, p *Profile) {
	from, to := s.Settings, p.Settings
	differ := !from.Equal(to)
	if differ {
		c.leave(s, from, to)
		c.enter(s, from, to)
	}
	c.keep(s, p)
	if differ {
		c.identify(to)
		c.hasten(from, to)
	}
	s.Settings, s.suits = to, p
}

// leave resets what to does not have. Identities are left whatever it is that changes, which may be more than they are allowed.
func (c *change) leave(s *Server, from, to *Settings) {
	for _, name := range identity {
		if from.Has(name) {
			c.reset(name)
		}
	}
	for i := range from.len() {
		if name := from.names[i]; !to.Has(name) && !slices.Contains(identity, name) && s.reported(name) == 0 {
			c.reset(name)
		}
	}
}

// enter sets what from does not have.
func (c *change) enter(s *Server, from, to *Settings) {
	for i := range to.len() {
		name, value := to.names[i], to.values[i]
		if to.isNew(i, from) && !slices.Contains(identity, name) && !isHasty(name, value) && s.reported(name) == 0 {
			c.set(name, value)
		}
	}
}

// hasten sets what the rest of the change might run into: all of it, where what from has of that may have been taken back by AppendCalming.
func (c *change) hasten(from, to *Settings) {
	for i := range to.len() {
		if name, value := to.names[i], to.values[i]; isHasty(name, value) && (from.Calms() || to.isNew(i, from)) {
			c.set(name, value)
		}
	}
}

// isNew reports whether the parameter at i is not as in from.
func (s *Settings) isNew(i int, from *Settings) bool {
	old, ok := from.get(s.names[i])
	return !ok || old != s.values[i]
}

// keep sets what is reported and not as the client was told, or asked for and only there by default, which may change.
func (c *change) keep(s *Server, p *Profile) {
	for name, value := range p.Greeting.Parameters {
		set := s.reported(name)
		if set != 0 && (s.params[name] != value || set&p.asked&^s.explicit != 0) {
			c.set(name, value)
			s.explicit |= set
		}
	}
}

// identify enters the identities of to, once those that were before have been left.
func (c *change) identify(to *Settings) {
	for _, name := range slices.Backward(identity) {
		if value, ok := to.get(name); ok {
			c.set(name, value)
		}
	}
}

// Equal reports whether they are the same parameters with the same values.
func (s *Settings) Equal(other *Settings) bool { return s.identifies() == other.identifies() }

// identifies is the key, "" for none.
func (s *Settings) identifies() string {
	if s == nil {
		return ""
	}
	return s.key
}

// AppendKey appends what is equal for equal settings.
func (s *Settings) AppendKey(dst []byte) []byte { return append(dst, s.identifies()...) }

func (s *Settings) list() (all []Setting) {
	for i := range s.len() {
		all = append(all, Setting{s.names[i], s.values[i]})
	}
	return all
}

// Unlisted are the names of those that the server does not list: an application has made them up.
func (s *Settings) Unlisted() (names []string) {
	for i := range s.len() {
		if strings.Contains(s.names[i], ".") {
			names = append(names, s.names[i])
		}
	}
	return names
}

// Get returns the value of the setting of that name, in lower case.
func (s *Settings) Get(name string) (value string, ok bool) { return s.get(name) }

// Has reports whether there is a setting of that name.
func (s *Settings) Has(name string) bool {
	_, ok := s.get(strings.ToLower(name))
	return ok
}

func (s *Settings) len() int {
	if s == nil {
		return 0
	}
	return len(s.names)
}
