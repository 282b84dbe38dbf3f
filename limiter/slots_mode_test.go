package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// nobody is not told anything here.
type nobody struct{}

func (nobody) Wake() {}

func TestModeOfTheQueueDecidesWhatBecomesOfADenial(t *testing.T) {
	tests := map[string]struct {
		mode    limiter.Mode
		verdict limiter.Verdict
		err     error
		shadow  bool
	}{
		"enforced, whoever finds the queue full is denied":       {limiter.Enforce, limiter.Denied, limiter.ErrQueueFull, false},
		"in shadow mode it waits, and would have been denied":    {limiter.Shadow, limiter.Waiting, limiter.ErrQueueFull, true},
		"switched off it waits, and nothing says anything of it": {limiter.Off, limiter.Waiting, nil, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := limiter.NewSlots(1, limiter.Queue{Wait: time.Second, Length: 1, Mode: test.mode}, limiter.Adaptive{})
			flow := limiter.NewFlow(1, 0)
			requests := make([]limiter.Request, 3) // one runs, one waits, and the one in question
			var verdict limiter.Verdict
			for i := range requests {
				requests[i] = limiter.Request{Flow: flow, Level: limiter.LevelNormal, Waker: nobody{}}
				verdict = s.Enter(&requests[i], int64(time.Second)+int64(i))
			}
			last := requests[2].Denial()
			if verdict != test.verdict || !errors.Is(last.Err, test.err) || last.Shadow != test.shadow {
				t.Errorf("verdict %d with %v (shadow %v), want %d with %v (shadow %v)",
					verdict, last.Err, last.Shadow, test.verdict, test.err, test.shadow)
			}
		})
	}
}
