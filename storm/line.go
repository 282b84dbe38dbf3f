package storm

import (
	"slices"
	"sync"
	"time"
)

// visit is one function and how far it got.
type visit struct {
	crew    *crew
	at      time.Duration // when it was to start, from the beginning of the storm
	attempt int           // 0 is the first
	counted bool          // in the summary: it starts after the warm-up
	direct  bool          // a free connection was handed to it at once
}

// deadline is when it is gone, from the beginning of the storm.
func (v *visit) deadline() time.Duration { return v.at + v.crew.Deadline }

// line is where the functions of one caller come by a connection: at once when one is free or may be opened, else when one
// is, until their deadline.
//
// The newest goes first. Were it the oldest, then in overload each would get a connection when hardly any of its time is left,
// whatever the target does, and what is measured would be this line.
type line struct {
	open func() *seat // starts one more seat, which waits at its hand

	mu      sync.Mutex // guards what follows
	room    int        // seats that may be opened yet
	waiting deque
	waited  int     // functions that were ever in waiting
	warm    []*seat // free ones with a connection; the one used last is last, and is taken first
	cold    []*seat // free ones without
	ended   bool
}

// give hands a function to a free seat, or lets it wait.
func (l *line) give(v visit) (waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	s := l.takeLocked()
	if s == nil {
		l.waiting.push(v)
		l.waited++
		return true
	}
	v.direct = v.attempt == 0
	s.hand <- v // has room: a seat that is free was handed nothing
	return false
}

func (l *line) takeLocked() *seat {
	for _, free := range []*[]*seat{&l.warm, &l.cold} {
		if n := len(*free); n > 0 {
			s := (*free)[n-1]
			*free = (*free)[:n-1]
			return s
		}
	}
	if l.room > 0 {
		l.room--
		return l.open()
	}
	return nil
}

// next is the function that a seat is to serve; the seat waits when there is none. ok is false at the end.
func (l *line) next(s *seat) (v visit, ok bool) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return visit{}, false
	}
	if v, ok = l.waiting.popLast(); !ok {
		l.freeLocked(s)
	}
	l.mu.Unlock()
	if !ok {
		v, ok = <-s.hand
	}
	return v, ok
}

func (l *line) freeLocked(s *seat) {
	if s.conn != nil {
		l.warm = append(l.warm, s)
	} else {
		l.cold = append(l.cold, s)
	}
}

// sweep takes out the oldest function in the line when its deadline is over.
func (l *line) sweep(now time.Duration) (v visit, expired bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.waiting.first()
	if !ok || v.deadline() > now {
		return visit{}, false
	}
	l.waiting.dropFirst()
	return v, true
}

func (l *line) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.n
}

func (l *line) waitedSoFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waited
}

// end sends all seats home: now those that are free, the others when they are.
func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, s := range slices.Concat(l.warm, l.cold) {
		close(s.hand)
	}
}

// deque is a ring of functions, in the order in which they came, that grows.
type deque struct {
	ring []visit
	head int // where the first is
	n    int
}

func (d *deque) at(i int) *visit { return &d.ring[(d.head+i)%len(d.ring)] }

func (d *deque) push(v visit) {
	if d.n == len(d.ring) {
		grown := make([]visit, max(64, 2*d.n))
		for i := range d.n {
			grown[i] = *d.at(i)
		}
		d.ring, d.head = grown, 0
	}
	d.n++
	*d.at(d.n - 1) = v
}

func (d *deque) popLast() (v visit, ok bool) {
	if d.n == 0 {
		return visit{}, false
	}
	d.n--
	return *d.at(d.n), true
}

func (d *deque) first() (v visit, ok bool) {
	if d.n == 0 {
		return visit{}, false
	}
	return *d.at(0), true
}

func (d *deque) dropFirst() {
	d.head = (d.head + 1) % len(d.ring)
	d.n--
}
