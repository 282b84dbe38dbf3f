package postgres

// answer is something that the server still has to say, in order: what was asked of it, and by whom.
type answer struct {
	kind      answerKind
	ours      bool       // asked by us: the client never hears of it
	statement *statement // of parsed and closed
	copyEnds  int        // of synced: how many ends of COPY data had been sent before
}

type answerKind uint8

const (
	queried answerKind = iota // a Query or FunctionCall: ends with ReadyForQuery
	synced                    // a Sync: one ReadyForQuery
	parsed                    // a Parse: ParseComplete
	closed                    // a Close: CloseComplete
)

// ends reports whether the answer is one ReadyForQuery.
func (a answer) ends() bool { return a.kind <= synced }

// answers is a queue of them. The slice is reused, so that asking allocates nothing.
type answers struct {
	list []answer
	head int
}

func (q *answers) push(a answer) {
	if q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	q.list = append(q.list, a)
}

func (q *answers) empty() bool { return q.head == len(q.list) }

// first is the answer that comes next; the queue is not empty.
func (q *answers) first() *answer { return &q.list[q.head] }

func (q *answers) pop() answer {
	a := q.list[q.head]
	q.list[q.head].statement = nil
	q.head++
	return a
}

// owed counts the ReadyForQuery messages to come.
func (q *answers) owed() (n int) {
	for _, a := range q.list[q.head:] {
		if a.ends() {
			n++
		}
	}
	return n
}

// keep drops the answers that f does not want.
func (q *answers) keep(f func(answer) bool) {
	kept := q.list[:q.head]
	for _, a := range q.list[q.head:] {
		if f(a) {
			kept = append(kept, a)
		}
	}
	clear(q.list[len(kept):])
	q.list = kept
}

func (q *answers) reset() {
	clear(q.list)
	q.list, q.head = q.list[:0], 0
}
