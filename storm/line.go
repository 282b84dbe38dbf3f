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

// line is where the functions of one caller come by a connection: at once when one is free or may be opened, else in the
// order in which they came, until their deadline.
type line struct {
	open func() *seat // starts one more seat, which waits at its hand

	mu      sync.Mutex // guards what follows
	room    int        // seats that may be opened yet
	waiting fifo
	warm    []*seat // free ones with a connection; the one used last is last, and is taken first
	cold    []*seat // free ones without
	ended   bool
}

// give hands a function to a free seat, or lets it wait.
func (l *line) give(v visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	s := l.takeLocked()
	if s == nil {
		l.waiting.push(v)
		return
	}
	v.direct = v.attempt == 0
	s.hand <- v // has room: a seat that is free was handed nothing
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
	if v, ok = l.waiting.pop(); !ok {
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

// sweep takes out the first function in the line when its deadline is over.
func (l *line) sweep(now time.Duration) (v visit, expired bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v, ok := l.waiting.peek(); ok && v.deadline() <= now {
		return l.waiting.pop()
	}
	return visit{}, false
}

func (l *line) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.n
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

// fifo is a ring that grows.
type fifo struct {
	ring  []visit
	first int
	n     int
}

func (f *fifo) push(v visit) {
	if f.n == len(f.ring) {
		grown := make([]visit, max(64, 2*f.n))
		for i := range f.n {
			grown[i] = f.ring[(f.first+i)%len(f.ring)]
		}
		f.ring, f.first = grown, 0
	}
	f.ring[(f.first+f.n)%len(f.ring)] = v
	f.n++
}

func (f *fifo) peek() (v visit, ok bool) {
	if f.n == 0 {
		return visit{}, false
	}
	return f.ring[f.first], true
}

func (f *fifo) pop() (v visit, ok bool) {
	if v, ok = f.peek(); ok {
		f.ring[f.first] = visit{}
		f.first = (f.first + 1) % len(f.ring)
		f.n--
	}
	return v, ok
}
