package postgres

import (
	"container/list"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"unique"

	"github.com/weirproxy/weir/limiter"
)

const (
	// mostShared is how much text of prepared statements a resource's clients may share, in bytes; what nobody has prepared
	// any more is forgotten first. Beyond, users who hold more than their part are refused, and others may have as much again. Should even
	// that be full, a client that prepares something new keeps its server connection.
	mostShared = 64 << 20
	// mostUnused is how much of that is kept although nobody has it prepared: functions come back with the same text.
	mostUnused = 8 << 20
	// mostRecent is how many texts each worker remembers, so that it need not lock to find them, and mostRecentText how much, in bytes:
	// all that the workers remember counts as used.
	mostRecent     = 1024
	mostRecentText = 1 << 20
)

// content is what a Parse prepares, whatever the client calls it: a text, the types of its parameters, and the settings under
// which it is understood. Clients that prepare the same share it, and on the servers it goes by one name.
type content struct {
	number      atomic.Uint64          // of that name; another one once the statement is outdated, or it is not known which servers have it
	since       atomic.Uint64          // the number that it got when it was outdated last; 0: it never was
	key         string                 // of both of the following, in the texts; empty when not shared
	schema      uint64                 // which of the schemas that there were it was prepared under: see isFresh
	made        int64                  // when, by the loops' clock
	superseded  bool                   // there is another one of this key; guarded by the lock of its texts
	types       atomic.Pointer[string] // of its parameters, as ParameterDescription has them; nil: nobody was told them
	plan        string                 // the settings: see pool.Profile.Plan
	text        string                 // the body of Parse behind the name; empty when too long to keep
	found       touch                  // what executing it may leave in the session
	plain       touch                  // or surely does
	names       []string               // of parameters that it sets, and that have to be asked for by name
	common      atomic.Bool            // was asked for more than once
	ends        bool                   // it is COMMIT or ROLLBACK
	resets      bool                   // it may bring back what was set at startup
	executes    string                 // the statement that it is EXECUTE of
	behind      int                    // where in the text the parameters of EXECUTE begin
	deallocates string                 // the statement that it is DEALLOCATE of
	alters      bool                   // it may change the schema
	buffers     bool                   // it says temp_buffers
	forgets     bool                   // it may be DEALLOCATE or DISCARD
	tampers     bool                   // it may change what is prepared without saying so
	defines     bool                   // in a function that it creates
	query       bool                   // it is a query or changes data: the server answers its Parse like any other's
	class       limiter.Fingerprint
	speaks      bool // there is a comment for us ahead of it

	refs    int                   // by sessions and workers; guarded by the lock of its texts
	holders int                   // of those, sessions' names for it; guarded likewise
	user    unique.Handle[string] // whose client was the first of the holders; guarded likewise
	idle    *list.Element         // in the list of unused ones; guarded likewise
}

// sql is the text alone, nil when it was not kept.
func (c *content) sql() []byte {
	sql, _, ok := strings.Cut(c.text, "\x00")
	if !ok {
		return nil
	}
	return []byte(sql)
}

// newContent reads a text.
func newContent(number uint64, plan, text string) *content {
	c := &content{plan: plan, text: text}
	c.number.Store(number)
	sql := c.sql()
	words := readWords(sql)
	c.found, c.plain, c.names = words.found.settled(sql)
	c.alters = changesSchema(sql, c.found)
	c.forgets = words.forget
	c.buffers = words.buffers
	c.tampers = mayTamper(sql, c.found, c.forgets)
	c.defines = c.tampers && definesFunction(sql)
	c.resets = words.reset
	c.query = isQuery(sql)
	c.class = limiter.FingerprintOf(sql)
	c.speaks = limiter.HasComment(sql)
	if name, ok := deallocated(sql); ok {
		c.deallocates = name
	}
	command, _ := readCommand(sql)
	c.ends = command == commitCommand || command == rollbackCommand
	if name, behind, ok := executedName(sql); ok {
		c.executes, c.behind = name, behind
	}
	return c
}

// worthKeeping reports whether c, prepared as the unnamed statement, is better prepared under a name that stays.
func (c *content) worthKeeping() bool { return c.query && c.common.Load() }

// isQuery reports whether a text begins with the word of a query, or of a change to data.
func isQuery(sql []byte) bool {
	first := wordAt(skipComments(sql))
	for _, word := range []string{"select", "insert", "update", "delete", "with", "merge", "values", "table"} {
		if equalWord(first, word) {
			return true
		}
	}
	return false
}

// texts are the contents that a resource's clients share. Safe for all goroutines.
type texts struct {
	mu     sync.Mutex
	known  map[string]*content           // by plan and text
	unused list.List                     // of *content, without references, the oldest first
	bytes  int                           // of all
	held   map[unique.Handle[string]]int // of what sessions have prepared by a name, shared or not, by user
	waste  int                           // of the unused ones
}

// contentSize is what a content is taken to need beyond its plan and its text, in bytes.
const contentSize = 256

// size is what a content is taken to need, in bytes.
func (c *content) size() int { return len(c.plan) + len(c.text) + contentSize }

// sizeOf is the size of the content with that key.
func sizeOf(key []byte) int { return len(key) - 4 + contentSize }

// appendKey appends the key of a plan and a text.
func appendKey(dst []byte, plan string, text []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(plan)))
	return append(append(dst, plan...), text...)
}

// errUserText is that what a user's clients have prepared is as much text as those of one user may have.
var errUserText = errors.New("too much text of one user")

// errShare is that there is too much text, and of that the user's clients have more than their part.
var errShare = errors.New("too much text, of which one user has much")

// errText is that there is too much text already.
var errText = errors.New("too much text")

// take returns the content with that key, with a reference for the caller, who is the user, unless that is not fresh any more; number gives
// a new one its number, schema and now say when it was made. A user may have most bytes. Errors: errUserText, errShare, errText.
func (t *texts) take(key []byte, user unique.Handle[string], most int, number func() uint64, fresh func(*content) bool, schema uint64, now int64) (*content, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.known[string(key)]
	if old != nil && fresh(old) {
		if old.holders == 0 && most > 0 && t.held[user]+old.size() > most {
			return nil, errUserText
		}
		t.retainLocked(old)
		old.common.Store(true)
		return old, nil
	}
	if most > 0 && t.held[user]+sizeOf(key) > most { // ahead of reading it, which takes longer
		return nil, errUserText
	}
	whole := string(key)
	plan := 4 + int(binary.BigEndian.Uint32(key))
	c := newContent(number(), whole[4:plan], whole[plan:])
	c.key, c.schema, c.made = whole, schema, now
	if old != nil {
		c.common.Store(true)
		t.supersedeLocked(old)
	}
	for t.bytes+c.size() > mostShared && t.unused.Len() > 0 {
		t.forgetLocked()
	}
	switch part := mostShared / (len(t.held) + 1); {
	case t.bytes+c.size() <= mostShared:
	case t.held[user] > part:
		return nil, errShare
	case t.bytes+c.size() > 2*mostShared:
		return nil, errText
	}
	if t.known == nil {
		t.known = make(map[string]*content)
	}
	t.known[whole] = c
	t.bytes += c.size()
	c.refs = 1
	return c, nil
}

// hold adds a reference by a name that a session of the user has given c. own is how many bytes that takes which nobody shares.
func (t *texts) hold(c *content, user unique.Handle[string], own int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chargeLocked(user, own)
	if c.key == "" {
		return
	}
	t.retainLocked(c)
	if c.holders++; c.holders == 1 {
		c.user = user
		t.chargeLocked(user, c.size())
	}
}

// unhold takes back what hold has added.
func (t *texts) unhold(c *content, user unique.Handle[string], own int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unholdLocked(c, user, own)
}

func (t *texts) unholdLocked(c *content, user unique.Handle[string], own int) {
	t.chargeLocked(user, -own)
	if c.key == "" {
		return
	}
	if c.holders--; c.holders == 0 {
		t.chargeLocked(c.user, -c.size())
	}
	t.releaseLocked(c)
}

// charge notes that the sessions of the user hold n bytes more that nobody shares.
func (t *texts) charge(user unique.Handle[string], n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.chargeLocked(user, n)
}

func (t *texts) chargeLocked(user unique.Handle[string], n int) {
	if t.held == nil {
		t.held = make(map[unique.Handle[string]]int)
	}
	if t.held[user] += n; t.held[user] == 0 {
		delete(t.held, user)
	}
}

// counts are the bytes that are held by sessions, and those that are shared.
func (t *texts) counts() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	held := 0
	for _, n := range t.held {
		held += n
	}
	return map[string]int64{"held": int64(held), "shared": int64(t.bytes)}
}

// heldBy is how many bytes the sessions of the user hold.
func (t *texts) heldBy(user unique.Handle[string]) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[user]
}

func (t *texts) retainLocked(c *content) {
	if c.refs++; c.idle != nil {
		t.unused.Remove(c.idle)
		t.waste -= c.size()
		c.idle = nil
	}
}

// release takes a reference back.
func (t *texts) release(c *content) {
	if c.key == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(c)
}

func (t *texts) releaseLocked(c *content) {
	if c.refs--; c.refs > 0 {
		return
	}
	if c.superseded {
		t.bytes -= c.size()
		return
	}
	c.idle = t.unused.PushBack(c)
	t.waste += c.size()
	for t.waste > mostUnused {
		t.forgetLocked()
	}
}

// supersedeLocked makes room for another content of the same key. Those who have prepared it keep it.
func (t *texts) supersedeLocked(c *content) {
	c.superseded = true
	delete(t.known, c.key)
	if c.idle != nil {
		t.unused.Remove(c.idle)
		c.idle = nil
		t.waste -= c.size()
		t.bytes -= c.size()
	}
}

// forgetLocked forgets what nobody has used for longest. Servers that have it prepared close it in time.
func (t *texts) forgetLocked() {
	c := t.unused.Remove(t.unused.Front()).(*content)
	c.idle = nil
	t.bytes -= c.size()
	t.waste -= c.size()
	delete(t.known, c.key)
}

// recent is what a worker remembers of the texts of all resources.
type recent map[recentKey]*content

type recentKey struct {
	resource *resource
	key      string
}

// contentOf is the content of a Parse with this text, the body behind the name, under the session's settings as they are
// now. Errors are those of [texts.take].
func (s *session) contentOf(text []byte) (*content, error) {
	w, r := s.w, s.resource
	plan := s.profile.Plan()
	w.key = appendKey(w.key[:0], plan, text)
	now := w.loop.Now()
	old := w.recent[recentKey{r, string(w.key)}]
	if old != nil && r.isFresh(old, now) {
		if !old.common.Load() {
			old.common.Store(true)
		}
		return old, nil
	}
	return s.takeContent(old, func(c *content) bool { return r.isFresh(c, now) })
}

// renewed is the content of c's text as it would be prepared now, although c was fresh.
func (s *session) renewed(c *content) *content {
	s.w.key = append(s.w.key[:0], c.key...)
	now, err := s.takeContent(s.w.recent[recentKey{s.resource, c.key}], func(known *content) bool { return known != c })
	if err != nil {
		return c
	}
	return now
}

// takeContent takes the content of the worker's key, if it is fresh, or else another one, and has the worker remember it in the place of old.
func (s *session) takeContent(old *content, fresh func(*content) bool) (*content, error) {
	w, r := s.w, s.resource
	c, err := r.texts.take(w.key, s.user, r.userText, w.srv.nextStatement, fresh, r.schema.Load(), w.loop.Now())
	if err != nil {
		return nil, err
	}
	if old != nil {
		delete(w.recent, recentKey{r, old.key})
		w.recentText -= old.size()
		r.texts.release(old)
	}
	if len(w.recent) >= mostRecent || w.recentText+c.size() > mostRecentText {
		for k, old := range w.recent {
			k.resource.texts.release(old)
		}
		clear(w.recent)
		w.recentText = 0
	}
	if w.recent == nil {
		w.recent = make(recent)
	}
	w.recent[recentKey{r, c.key}] = c
	w.recentText += c.size()
	return c, nil
}

// private is a content that is not shared: its text may mean something else to others.
func (s *session) private(text string) *content {
	return newContent(s.w.srv.nextStatement(), "", text)
}

// Texts of contents that cost a server next to nothing. It takes the one with nothing in it in a failed transaction block, too.
const (
	emptySelect = "SELECT\x00\x00\x00"
	emptyText   = "\x00\x00\x00"
)
