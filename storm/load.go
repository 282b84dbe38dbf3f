package storm

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Load says when functions start: phases, one after another.
type Load struct {
	Phases []Phase
	text   string // as it was written
}

// Phase is a time in which functions start at random (a Poisson process) at a rate that is steady, or changes evenly.
type Phase struct {
	From, To float64       // functions per second at its beginning and at its end
	For      time.Duration // 0 for a burst and nothing else
	Burst    int           // functions that start together at its beginning, besides
}

// loadGrammar is what an error shows to who wrote something else.
const loadGrammar = `phases with commas between, each one of "200/s for 10s", "ramp to 500/s for 10s", "ramp from 100/s to 500/s for 10s", ` +
	`"add 200/s every 5s up to 2000/s", "500 at once", "1000 at once every 10s up to 5000"`

// ParseLoad reads phases with commas between them:
//
//	200/s for 10s                        at random, 200 a second on average
//	ramp to 500/s for 10s                from the rate before, evenly, to this
//	ramp from 100/s to 500/s for 10s
//	add 200/s every 5s up to 2000/s      stairs that begin one step above the rate before
//	500 at once                          together; takes no time
//	1000 at once every 10s up to 5000    as a platform scales out: five times, 5000 in all
func ParseLoad(text string) (Load, error) {
	load := Load{text: strings.Join(strings.Fields(text), " ")}
	rate := 0.0
	for part := range strings.SplitSeq(load.text, ",") {
		part = strings.TrimSpace(part)
		phases, err := parsePhases(part, rate)
		if err != nil {
			return Load{}, err
		}
		if len(load.Phases)+len(phases) > MaxPhases {
			return Load{}, fmt.Errorf("%q makes more than %d phases", part, MaxPhases)
		}
		load.Phases = append(load.Phases, phases...)
		rate = load.Phases[len(load.Phases)-1].To
	}
	return load, nil
}

var loadForms = []struct {
	form   *regexp.Regexp
	phases func(words []string, before float64) ([]Phase, error)
}{
	{regexp.MustCompile(`^(\S+)/s for (\S+)$`), steadyPhase},
	{regexp.MustCompile(`^ramp (?:from (\S+)/s )?to (\S+)/s for (\S+)$`), rampPhase},
	{regexp.MustCompile(`^add (\S+)/s every (\S+) up to (\S+)/s$`), stairs},
	{regexp.MustCompile(`^(\S+) at once(?: every (\S+) up to (\S+))?$`), bursts},
}

func parsePhases(text string, before float64) ([]Phase, error) {
	for _, f := range loadForms {
		if words := f.form.FindStringSubmatch(text); words != nil {
			phases, err := f.phases(words[1:], before)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
			return phases, nil
		}
	}
	return nil, fmt.Errorf("%q is not a phase of a load; expected %s", text, loadGrammar)
}

func steadyPhase(words []string, _ float64) ([]Phase, error) {
	rate, err := parseRate(words[0])
	if err != nil {
		return nil, err
	}
	d, err := parsePhaseDuration(words[1])
	return []Phase{{From: rate, To: rate, For: d}}, err
}

func rampPhase(words []string, before float64) ([]Phase, error) {
	from, err := before, error(nil)
	if words[0] != "" {
		if from, err = parseRate(words[0]); err != nil {
			return nil, err
		}
	}
	to, err := parseRate(words[1])
	if err != nil {
		return nil, err
	}
	d, err := parsePhaseDuration(words[2])
	return []Phase{{From: from, To: to, For: d}}, err
}

func stairs(words []string, before float64) ([]Phase, error) {
	step, err := parseRate(words[0])
	if err != nil {
		return nil, err
	}
	d, err := parsePhaseDuration(words[1])
	if err != nil {
		return nil, err
	}
	top, err := parseRate(words[2])
	if err != nil {
		return nil, err
	}
	if step == 0 || top <= before {
		return nil, fmt.Errorf("leads nowhere from %g/s; expected a step above 0/s and a top above the rate before", before)
	}
	steps := int(math.Ceil((top-before)/step - 1e-9))
	if steps > MaxPhases {
		return nil, fmt.Errorf("makes more than %d phases", MaxPhases)
	}
	var phases []Phase
	for i := range steps {
		rate := min(top, before+step*float64(i+1))
		phases = append(phases, Phase{From: rate, To: rate, For: d})
	}
	return phases, nil
}

func bursts(words []string, _ float64) ([]Phase, error) {
	each, err := parseCount(words[0])
	if err != nil {
		return nil, err
	}
	if words[1] == "" {
		return []Phase{{Burst: each}}, nil
	}
	d, err := parsePhaseDuration(words[1])
	if err != nil {
		return nil, err
	}
	total, err := parseCount(words[2])
	if err != nil {
		return nil, err
	}
	if total/each >= MaxPhases {
		return nil, fmt.Errorf("makes more than %d phases", MaxPhases)
	}
	var phases []Phase
	for left := total; left > 0; left -= each {
		phases = append(phases, Phase{Burst: min(each, left), For: d})
	}
	return phases, nil
}

func parseRate(text string) (float64, error) {
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !(rate >= 0 && rate <= MaxRate) {
		return 0, fmt.Errorf("%s/s is not a rate from 0/s to %d/s", text, MaxRate)
	}
	return rate, nil
}

func parsePhaseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > MaxDuration {
		return 0, fmt.Errorf("%s is not a duration up to %s, e.g. 10s or 1m30s", text, plain(MaxDuration))
	}
	return d, nil
}

func parseCount(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxBurst {
		return 0, fmt.Errorf("%s is not a number of functions from 1 to %d", text, MaxBurst)
	}
	return n, nil
}

// plain writes a duration without the zeros that time.Duration's String ends with: 1h, not 1h0m0s.
func plain(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Steady is the load of one rate.
func Steady(perSecond float64, d time.Duration) Load {
	return Load{
		Phases: []Phase{{From: perSecond, To: perSecond, For: d}},
		text:   fmt.Sprintf("%g/s for %s", perSecond, plain(d)),
	}
}

// Together is the load of functions that start at the same moment.
func Together(functions int) Load {
	return Load{Phases: []Phase{{Burst: functions}}, text: fmt.Sprintf("%d at once", functions)}
}

// String is the load as it was written.
func (l Load) String() string { return l.text }

// MarshalText is String.
func (l Load) MarshalText() ([]byte, error) { return []byte(l.text), nil }

// UnmarshalText is ParseLoad.
func (l *Load) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLoad(string(text))
	return err
}

// Duration is how long it goes on.
func (l Load) Duration() time.Duration {
	var d time.Duration
	for _, p := range l.Phases {
		d += p.For
	}
	return d
}

// expected is how many functions it starts, on average.
func (l Load) expected() float64 {
	n := 0.0
	for _, p := range l.Phases {
		n += float64(p.Burst) + (p.From+p.To)/2*p.For.Seconds()
	}
	return n
}

// validate checks what a program may have put together by itself.
func (l Load) validate() error {
	if len(l.Phases) == 0 {
		return fmt.Errorf("is missing; expected %s", loadGrammar)
	}
	if len(l.Phases) > MaxPhases {
		return fmt.Errorf("has %d phases; expected at most %d", len(l.Phases), MaxPhases)
	}
	for i, p := range l.Phases {
		switch {
		case !(p.From >= 0 && p.From <= MaxRate && p.To >= 0 && p.To <= MaxRate):
			return fmt.Errorf("phase %d goes from %g/s to %g/s; expected rates from 0/s to %d/s", i+1, p.From, p.To, MaxRate)
		case p.For < 0 || p.For > MaxDuration:
			return fmt.Errorf("phase %d takes %s; expected at most %s", i+1, p.For, plain(MaxDuration))
		case p.Burst < 0 || p.Burst > MaxBurst:
			return fmt.Errorf("phase %d starts %d functions at once; expected at most %d", i+1, p.Burst, MaxBurst)
		}
	}
	if d := l.Duration(); d > MaxDuration {
		return fmt.Errorf("takes %s; expected at most %s", plain(d), plain(MaxDuration))
	}
	if l.expected() == 0 {
		return fmt.Errorf("starts no function; expected %s", loadGrammar)
	}
	return nil
}
