package limiter_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/limiter"
)

// buckets are all implementations of limiter.Bucket, each as the only one of its fleet and ready to be used.
var buckets = map[string]func(t *testing.T, rate limiter.Rate) (limiter.Bucket, func()){
	"local": func(_ *testing.T, rate limiter.Rate) (limiter.Bucket, func()) {
		return limiter.NewLocal(rate, nil), func() {}
	},
	"leased": func(_ *testing.T, rate limiter.Rate) (limiter.Bucket, func()) {
		w := startWeir(newStore(1), 0, rate)
		time.Sleep(settled)
		w.Take() // lets the reserve grow to what it may be
		time.Sleep(time.Minute)
		return w, w.crash
	},
	"leased without its store": func(_ *testing.T, rate limiter.Rate) (limiter.Bucket, func()) {
		s := newStore(1)
		w := startWeir(s, 0, rate)
		time.Sleep(settled)
		s.setDown(true)
		w.Take()
		time.Sleep(time.Minute)
		return w, w.crash
	},
}

func TestBucket(t *testing.T) {
	type step struct {
		after time.Duration // let this much time pass,
		take  int           // ask for this many tokens, one a millisecond,
		least int           // and expect so many at least
		most  int           // and at most
	}
	tests := map[string]struct {
		rate  limiter.Rate
		steps []step
	}{
		"a full bucket serves its burst, then its rate": {
			limiter.Rate{PerSecond: 10, Burst: 20},
			[]step{{0, 40, 20, 21}, {time.Second, 15, 8, 11}, {time.Minute, 40, 20, 21}},
		},
		"the burst is a second's worth by default": {
			limiter.Rate{PerSecond: 5},
			[]step{{0, 50, 5, 6}, {2 * time.Second, 50, 5, 6}},
		},
		"a rate below one starts with one": {
			limiter.Rate{PerSecond: 0.1},
			[]step{{0, 1, 1, 1}, {time.Second, 1, 0, 1}, {20 * time.Second, 1, 1, 1}},
		},
	}
	for kind, open := range buckets {
		for name, test := range tests {
			t.Run(kind+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, done := open(t, test.rate)
					defer done()
					for i, s := range test.steps {
						time.Sleep(s.after)
						got := 0
						for range s.take {
							if _, ok := b.Take(); ok {
								got++
							}
							time.Sleep(time.Millisecond)
						}
						if got < s.least || got > s.most {
							t.Errorf("step %d: %d of %d tokens, want %d to %d", i, got, s.take, s.least, s.most)
						}
					}
				})
			})
		}
	}
}

// Whoever comes back when he was told to finds a token, and asking in vain has cost nothing.
func TestRefusalSaysWhen(t *testing.T) {
	for kind, open := range buckets {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, done := open(t, limiter.Rate{PerSecond: 4, Burst: 2})
				defer done()
				for range 10 {
					b.Take()
					time.Sleep(2 * time.Millisecond)
				}
				for range 5 {
					retry, ok := b.Take()
					if ok || retry <= 0 || retry > 250*time.Millisecond {
						t.Fatalf("Take = %v, %v; want a refusal for at most the 250ms of one token", retry, ok)
					}
					for range 1000 {
						b.Take()
					}
					time.Sleep(retry + 2*time.Millisecond)
					if again, ok := b.Take(); !ok {
						t.Fatalf("refused again after the announced %v: %v", retry, again)
					}
					time.Sleep(2 * time.Millisecond)
				}
			})
		})
	}
}

func TestBucketIsSafeForConcurrentUse(t *testing.T) {
	for kind, open := range buckets {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, done := open(t, limiter.Rate{PerSecond: 100, Burst: 100})
				defer done()
				var taken atomic.Int64
				var clients sync.WaitGroup
				for range 8 {
					clients.Go(func() {
						for range 100 {
							if _, ok := b.Take(); ok {
								taken.Add(1)
							}
						}
					})
				}
				clients.Wait()
				if got := taken.Load(); got < 50 || got > 100 {
					t.Errorf("8 clients got %d tokens at once, want 50 to 100", got)
				}
			})
		})
	}
}
