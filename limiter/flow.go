package limiter

import "time"

// Level is a priority as a number, the most important first.
type Level uint8

// The levels.
const (
	LevelCritical Level = iota
	LevelNormal
	LevelBatch
	LevelSheddable

	levelCount = 4
)

// Flow is a caller as the queue sees it: whose requests are served in turn with those of other flows, by the server time they
// use (start-time fair queueing: Goyal, Vin and Cheng, 1996). It belongs to one [Slots], which guards it.
type Flow struct {
	weight float64
	most   int // slots at once; 0: no limit of its own
	would  int // the same, in shadow mode

	running int
	hold    [lanes]average      // how long its requests hold a slot
	wanted  time.Duration       // how long its requests are wanted, as it is set; 0: it is not
	leaving leaving             // what is seen of that
	virtual [levelCount]float64 // server time used with each priority so far, by weight, in nanoseconds; see level.virtual
	lines   [levelCount][lanes]line
	places  [levelCount][lanes]int // in the heaps of flows that wait, from 1; 0: not there
}

// NewShadowFlow makes a flow without a weight or a limit of its own. It is noted where it would have had to wait because of a limit of
// that many slots at once; 0: none.
func NewShadowFlow(most int) *Flow { return &Flow{weight: 1, would: most} }

// NewFlow makes a flow of that weight, 1 or more, that may have at most so many slots at once; 0: any number.
func NewFlow(weight, most int) *Flow { return &Flow{weight: float64(max(weight, 1)), most: most} }

func (f *Flow) line(r *Request) *line { return &f.lines[r.Level][r.lane] }

// Wanted sets how long the flow's requests are wanted; 0: what is seen of them, or is set for all, counts. It returns f.
func (f *Flow) Wanted(patience time.Duration) *Flow {
	f.wanted = patience
	return f
}

// use charges the flow with nanoseconds of server time; less than none gives back.
func (f *Flow) use(l Level, nanoseconds float64) { f.virtual[l] += nanoseconds / f.weight }

// full reports whether the flow has as many slots as it may have.
func (f *Flow) full() bool { return f.most > 0 && f.running >= f.most }

// level are the flows that wait with requests of one priority, in one lane: a heap by virtual time, in which flows that have
// all the slots they may have come last.
type level struct {
	l       Level
	n       lane
	heap    []*Flow
	arrival bool    // order of arrival instead of fairness
	waiting int     // requests
	weight  float64 // of the flows in the heap
	served  rate    // grants
	flood   flood
	virtual float64 // virtual time of the flow that was served last: where one begins that has rested, and saved nothing up
}

// place is where f keeps its index in this heap.
func (v *level) place(f *Flow) *int { return &f.places[v.l][v.n] }

// first is the flow to be served next, nil when none may be.
func (v *level) first() *Flow {
	if len(v.heap) == 0 || v.heap[0].full() {
		return nil
	}
	return v.heap[0]
}

func (v *level) less(a, b *Flow) bool {
	if a.full() != b.full() {
		return b.full()
	}
	if v.arrival {
		return a.lines[v.l][v.n].head.entered < b.lines[v.l][v.n].head.entered
	}
	return a.virtual[v.l] < b.virtual[v.l]
}

// activate adds a flow that had nobody waiting here.
func (v *level) activate(f *Flow) {
	v.heap = append(v.heap, f)
	*v.place(f) = len(v.heap)
	v.weight += f.weight
	v.up(len(v.heap) - 1)
}

// deactivate takes a flow out that has nobody waiting here any more.
func (v *level) deactivate(f *Flow) {
	i := *v.place(f) - 1
	last := len(v.heap) - 1
	v.swap(i, last)
	v.heap[last] = nil
	v.heap = v.heap[:last]
	*v.place(f) = 0
	v.weight -= f.weight // exact: weights are whole numbers
	if i < last {
		v.fix(i)
	}
}

// reorder puts f at its place, where it waits.
func (v *level) reorder(f *Flow) {
	if i := *v.place(f); i > 0 {
		v.fix(i - 1)
	}
}

func (v *level) fix(i int) {
	v.up(i)
	v.down(i)
}

func (v *level) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !v.less(v.heap[i], v.heap[parent]) {
			return
		}
		v.swap(i, parent)
		i = parent
	}
}

func (v *level) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(v.heap); child++ {
			if v.less(v.heap[child], v.heap[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		v.swap(i, least)
		i = least
	}
}

func (v *level) swap(i, j int) {
	v.heap[i], v.heap[j] = v.heap[j], v.heap[i]
	*v.place(v.heap[i]), *v.place(v.heap[j]) = i+1, j+1
}
