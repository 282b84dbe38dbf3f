package postgres

// answer is something that the server still has to say, in order: what was asked of it, and by whom.
type answer struct {
	kind    answerKind
	ours    bool     // asked by us: the client never hears of it
	mayFail bool     // of queried, and ours: an error is of no consequence
	open    bool     // of copyEnd, and of queried in pool mode session: messages of the extended protocol without a Sync are ahead of it
	taken   bool     // of parsed: the name was the client's already, so that it will be refused
	name    string   // of parsed and closed: the client's name for the statement; of queried and executed: of the one that DEALLOCATE drops
	content *content // of parsed and closed: what it is; of the others: what they are about
	number  uint64   // of parsed: the server knows it by this one from then on; 0: by none; of closed: see statement.told; of the others: its number
	at      int      // where in the record it begins, plus one, if it can be said again
	untold  bool     // of described: the client has not been told before what it returns
	use     int      // of steps: which of the uses it is, plus one; of copyEnd: how many more like it there are
	size    int      // of parsed and closed: how many bytes of names and text it may be the last to keep
	change  uint32   // of parsed and closed: the change of the unnamed statement by it; 0: none
	before  unnamed  // and how that was before
}

type answerKind uint8

const (
	queried answerKind = iota // a Query or FunctionCall: ends with ReadyForQuery
	asked                     // a Query of ours about the session: see inquiry
	began                     // the BEGIN of a block that the client has begun before: see block
	synced                    // a Sync: one ReadyForQuery
	parsed                    // a Parse: ParseComplete
	closed                    // a Close: CloseComplete
	copyEnd                   // no answer: the end of COPY data, sent before the server has asked for any

	// Steps of a batch: what follows one of them proves it done, so that an error is the first one's.
	bound     // a Bind: BindComplete
	described // a Describe: RowDescription or NoData
	executed  // an Execute: the completion of a command, or as good as that
)

// step reports whether the answer is to a step of a batch.
func (a *answer) step() bool { return a.kind >= bound }

// ends reports whether the answer is one ReadyForQuery.
func (a *answer) ends() bool { return a.kind <= synced }

// answers is a queue of them. The slice is reused, so that asking allocates nothing.
type answers struct {
	list   []answer
	head   int
	kinds  [executed + 1]int // how many there are of each kind
	closes int               // how many close statements of the client's
	parses int               // how many are Parses of statements that were kept
	bytes  int               // how many bytes they keep
	asked  int               // how many ReadyForQuery messages were, ever
	heard  int               // and how many of them have come
}

// closing reports whether a closes a statement of the client's.
func (a *answer) closing() bool { return a.kind == closed && a.content != nil }

func (q *answers) push(a answer) {
	switch {
	case q.head == len(q.list):
		q.list, q.head = q.list[:0], 0
	case len(q.list) == cap(q.list) && q.head > len(q.list)/2: // a pipeline that never runs dry
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, a)
	q.count(&a, 1)
	if a.ends() {
		q.asked++
	}
}

func (q *answers) count(a *answer, n int) {
	q.bytes += n * a.size
	q.kinds[a.kind] += n
	if a.closing() {
		q.closes += n
	}
	if a.kind == parsed && a.content != nil {
		q.parses += n
	}
}

func (q *answers) empty() bool { return q.head == len(q.list) }

// endsWith reports whether what was asked last is of that kind.
func (q *answers) endsWith(kind answerKind) bool {
	return !q.empty() && q.last().kind == kind
}

// first is the answer that comes next; the queue is not empty.
func (q *answers) first() *answer { return &q.list[q.head] }

// last is what was asked last; the queue is not empty.
func (q *answers) last() *answer { return &q.list[len(q.list)-1] }

func (q *answers) pop() answer {
	a := q.list[q.head]
	q.drop()
	return a
}

// drop is pop for one that is of no more interest.
func (q *answers) drop() {
	a := &q.list[q.head]
	q.count(a, -1)
	if a.ends() {
		q.heard++
	}
	a.content, a.before.content = nil, nil
	q.head++
}

// owed counts the ReadyForQuery messages to come.
func (q *answers) owed() int { return q.asked - q.heard }

// len is how many answers are to come.
func (q *answers) len() int { return len(q.list) - q.head }

// pending are the answers to come, in order. It is valid until the queue is changed.
func (q *answers) pending() []answer { return q.list[q.head:] }

// cut drops n answers behind the first skip of those to come.
func (q *answers) cut(skip, n int) {
	at := q.head + skip
	for i := at; i < at+n; i++ {
		q.count(&q.list[i], -1)
		if q.list[i].ends() {
			q.asked--
		}
	}
	if skip == 0 { // there may be thousands behind them
		clear(q.list[at : at+n])
		q.head += n
		return
	}
	kept := append(q.list[:at], q.list[at+n:]...)
	clear(q.list[len(kept):])
	q.list = kept
}

// inquired reports whether the answer that comes next is to our questions about the session.
func (q *answers) inquired() bool { return !q.empty() && q.first().kind == asked }

// settings reports whether the answer that comes next is to our Query for the session's settings.
func (q *answers) settings() bool {
	return !q.empty() && q.first().ours && q.first().kind == queried
}

// prelude reports whether the answer that comes next is to a Query of ours that goes ahead of the client's statement.
func (q *answers) prelude() bool { return q.settings() || !q.empty() && q.first().kind == began }

// ahead reports whether the last Parse, or Close, of the statement name that was sent belongs to an earlier batch and has yet to
// be answered: it may be skipped.
func (q *answers) ahead(name []byte) bool {
	if q.kinds[synced] == 0 {
		return false
	}
	behindSync := false
	for i := len(q.list) - 1; i >= q.head; i-- {
		switch a := &q.list[i]; {
		case a.kind == synced:
			behindSync = true
		case a.kind != parsed && a.kind != closed:
		case a.content != nil && !a.ours && a.name == string(name), a.content != nil && a.ours && a.number == 0 && len(name) == 0:
			return behindSync
		}
	}
	return false
}

// parsing reports whether a Parse of c in an earlier batch has yet to be answered, so that it may be skipped, and c may not be known
// to the server. A later one of the unnamed statement does not change that.
func (q *answers) parsing(c *content) bool {
	if q.parses == 0 || q.kinds[synced] == 0 {
		return false
	}
	behindSync := false
	for i := len(q.list) - 1; i >= q.head; i-- {
		switch a := &q.list[i]; {
		case a.kind == synced:
			behindSync = true
		case a.kind == parsed && a.content == c && (behindSync || a.number != 0):
			return behindSync
		}
	}
	return false
}

// done notes that a step of that kind is done, and with it those before it.
func (q *answers) done(kind answerKind) {
	pending := q.pending()
	for i := range pending {
		switch a := &pending[i]; {
		case !a.step():
			a.at = 0 // part of its answer has come
			return
		case a.kind == kind:
			for range i + 1 {
				q.drop()
			}
			return
		}
	}
}

// has reports whether something of that kind is to come.
func (q *answers) has(kind answerKind) bool { return q.kinds[kind] > 0 }

// dropCopyEnds drops ends of COPY data at the front that were meant for no COPY, as the server has got past them. One that
// is open may still meet its COPY: only an answer to something behind it tells that it will not.
func (q *answers) dropCopyEnds(openToo bool) {
	for !q.empty() && q.first().kind == copyEnd && (openToo || !q.first().open) {
		q.pop()
	}
}

// mostOutstanding is how many answers may be to come before a client is not read from any more: then it is what it sends and does
// not wait for that fills its own buffers, not ours. Drivers that pipeline have hundreds under way. mostOutstandingText is how many bytes
// of names and text they may keep.
const (
	mostOutstanding     = 4096
	mostOutstandingText = 4 << 20
)

// mostDoubtful is how many may be to come where it is not certain which will. There is no use in waiting for them: the session ends.
const mostDoubtful = 4 * mostOutstanding

// isFull reports whether the message at i has to wait for answers to those before it. The server is asked for them, for it might keep
// them to itself until the Sync.
func (k *link) isFull(r *rewriting, i int) bool {
	if k.answers.len() < mostOutstanding && k.answers.bytes < mostOutstandingText || k.copyIn || k.doubtful {
		return false
	}
	k.full = true
	if k.answers.owed() == 0 {
		k.hurry(r, i)
	}
	return true
}

// mostKept is how many answers a queue has room for while it is not used.
const mostKept = 1024

func (q *answers) reset() {
	if cap(q.list) > mostKept {
		q.list = nil
	}
	clear(q.list)
	*q = answers{list: q.list[:0]}
}
