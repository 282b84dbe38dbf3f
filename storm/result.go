package storm

import (
	"time"
)

// Result is what became of a storm at one target. Durations are milliseconds, unless the name says otherwise.
type Result struct {
	Name        string    `json:"name"`   // what the plan calls the target
	Target      string    `json:"target"` // user@host:port/database
	Began       time.Time `json:"began"`
	Seconds     float64   `json:"seconds"`               // of load that was offered, without the warm-up
	Interrupted bool      `json:"interrupted,omitempty"` // it was ended early
	Setup       Setup     `json:"setup"`

	Outcome
	Callers   []CallerResult `json:"callers"`
	Fairness  float64        `json:"fairness"` // Jain's index over callers of goodput by weight: 1 is fair, 1/n is all to one
	Generator Generator      `json:"generator"`
	Warnings  []string       `json:"warnings,omitempty"` // why the figures may mean less than they seem to

	Latencies []Bar  `json:"latencies"` // distribution of the good
	Series    Series `json:"series"`
}

// Setup is what was asked for.
type Setup struct {
	Load               string  `json:"load"`
	Connections        string  `json:"connections"`
	Count              int     `json:"count"` // of connections: kept, or fresh at the same time
	DeadlineMs         float64 `json:"deadline_ms"`
	SayDeadline        bool    `json:"say_deadline"`
	Retries            int     `json:"retries"`
	HeedHint           bool    `json:"heed_hint"`
	WorkMs             float64 `json:"work_ms,omitempty"`
	RowsPerMillisecond float64 `json:"rows_per_millisecond,omitempty"`
	Transactions       int     `json:"transactions"`
	WarmupSeconds      float64 `json:"warmup_seconds,omitempty"`
	Seed               uint64  `json:"seed"`
}

// CallerResult is what became of the functions of one caller.
type CallerResult struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"`
	Outcome
	SeriesOffered []uint32 `json:"series_offered"` // as in Series
	SeriesGood    []uint32 `json:"series_good"`
}

// Outcome is what became of some functions. Offered is the sum of Good, Refused, TimedOut, Failed and Unfinished.
type Outcome struct {
	Offered    uint64 `json:"offered"`    // functions that started
	Good       uint64 `json:"good"`       // did all they had to within the deadline
	Refused    uint64 `json:"refused"`    // were turned away, also by the last retry
	TimedOut   uint64 `json:"timed_out"`  // were gone at their deadline
	Failed     uint64 `json:"failed"`     // got another error
	Unfinished uint64 `json:"unfinished"` // were under way when the storm was interrupted
	Retried    uint64 `json:"retried"`    // attempts beyond the first one of a function

	OfferedPerSecond float64 `json:"offered_per_second"`
	GoodPerSecond    float64 `json:"good_per_second"`
	GoodShare        float64 `json:"good_share"` // of offered

	Latency     Quantiles    `json:"latency"`         // of the good, from the moment each was to start
	Transaction Quantiles    `json:"transaction"`     // each transaction that succeeded, from its first statement
	Login       *Quantiles   `json:"login,omitempty"` // connect, TLS and authentication, of logins that succeeded
	Refusal     Quantiles    `json:"refusal"`         // attempts that were turned away, for whatever reason
	Refusals    []Refusal    `json:"refusals"`        // the same by reason, most frequent first
	Errors      []ErrorCount `json:"errors"`          // attempts, most frequent first
	While       Timeouts     `json:"timed_out_while"`
}

// Timeouts says what functions were doing when their deadline came.
type Timeouts struct {
	Waiting uint64 `json:"waiting"` // for a connection to borrow, also to try again
	Login   uint64 `json:"login"`   // connecting and logging in
	Answer  uint64 `json:"answer"`  // for the answer to a statement
	Resting uint64 `json:"resting"` // pausing between two transactions
}

// Quantiles of durations, in milliseconds.
type Quantiles struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// Refusal is one reason for which functions were turned away.
type Refusal struct {
	SQLSTATE string    `json:"sqlstate"`
	Message  string    `json:"message"`
	Rule     string    `json:"rule,omitempty"` // of weir's DETAIL
	Count    uint64    `json:"count"`
	Latency  Quantiles `json:"latency"` // from the attempt's begin to the refusal
}

// ErrorCount is one text of errors that were no refusals.
type ErrorCount struct {
	SQLSTATE string `json:"sqlstate,omitempty"`
	Message  string `json:"message"`
	Count    uint64 `json:"count"`
}

// Bar is one bar of a distribution: durations from From up to To.
type Bar struct {
	FromMs float64 `json:"from_ms"`
	ToMs   float64 `json:"to_ms"`
	Count  uint64  `json:"count"`
}

// Generator is how well the storm kept to its own schedule. A function lags when it begins later than planned although a
// connection was free, or gets in line for one later: then the generator had no processor, and what it measured is itself.
type Generator struct {
	Lag           Quantiles `json:"lag"`
	Starved       bool      `json:"starved"` // the 99th percentile is beyond what the deadline makes negligible
	CPUSeconds    float64   `json:"cpu_seconds"`
	CPUPerAttempt float64   `json:"cpu_us_per_attempt"` // microseconds of this whole process for each attempt
	Processors    int       `json:"processors"`
}

// Series is the storm over time, the warm-up included: the nth value of each list is about the nth step. It goes on until
// the last function has ended.
type Series struct {
	StepMs   float64   `json:"step_ms"`
	Offered  []uint32  `json:"offered"`
	Good     []uint32  `json:"good"`
	Refused  []uint32  `json:"refused"` // functions, not attempts
	TimedOut []uint32  `json:"timed_out"`
	Failed   []uint32  `json:"failed"`
	InFlight []int64   `json:"in_flight"` // at the end of the step
	P50      []float64 `json:"p50"`       // latency of the good that ended in the step; 0 when there are none
	P90      []float64 `json:"p90"`
	P99      []float64 `json:"p99"`
	Max      []float64 `json:"max"`
}

func quantiles(h *histogram) Quantiles {
	if h.n == 0 {
		return Quantiles{}
	}
	return Quantiles{
		Count: h.n,
		Mean:  ms(h.sum / time.Duration(h.n)),
		P50:   ms(h.quantile(0.50)),
		P90:   ms(h.quantile(0.90)),
		P99:   ms(h.quantile(0.99)),
		P999:  ms(h.quantile(0.999)),
		Max:   ms(h.max),
	}
}

// ms is a duration in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Jain is Jain's index of fairness: 1 when all values are the same, 1/n when one has everything; 1 when there is nothing.
func Jain(values []float64) float64 {
	var sum, squares float64
	for _, v := range values {
		sum += v
		squares += v * v
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(values)) * squares)
}
