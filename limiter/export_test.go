package limiter

// The parts of Slots that tests turn off.
const (
	Fairness = iota
	Standing
	Deadlines
	Lanes
	NewestFirst
)

// Without turns parts off.
func (s *Slots) Without(parts ...int) {
	for _, p := range parts {
		switch p {
		case Fairness:
			s.switches.noFairness = true
			for l := range s.levels {
				for n := range s.levels[l] {
					s.levels[l][n].arrival = true
				}
			}
		case Standing:
			s.switches.noStanding = true
		case Deadlines:
			s.switches.noDeadlines = true
		case Lanes:
			s.switches.noLanes = true
		case NewestFirst:
			s.switches.newestFirst = true
		}
	}
}

// Running reports whether r has a slot.
func (s *Slots) Running(r *Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.state == running
}
