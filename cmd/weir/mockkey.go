package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fleet"
)

// mockKey is the random bytes that the salts are made of which strangers are shown. All weirs of a fleet should show the same,
// and each the same after a restart. So it is what auth.mock_key says, or else what the fleet keeps in Redis. Without either it
// is this process's own. It is never made from a password: see [auth.Key].
type mockKey struct {
	random []byte // what the fleet has agreed on; while nobody knows that, our own
	agreed bool
	failed bool // the last question, though Redis answers
}

const (
	mockKeyLength = 32

	// The fleet is asked again: a Redis that has lost everything is told the key anew, and if two told it different ones,
	// both learn of it.
	agreeEvery = time.Minute
	agreeSoon  = time.Second // while the fleet has not answered yet
)

func newMockKey() mockKey {
	k := mockKey{random: make([]byte, mockKeyLength)}
	_, _ = rand.Read(k.random) // never fails: it ends the process instead
	return k
}

func (k *mockKey) keyFor(cfg *config.Config) auth.Key {
	if !cfg.Auth.MockKey.IsZero() {
		return auth.KeyFrom([]byte(cfg.Auth.MockKey.Reveal()))
	}
	return auth.KeyFrom(k.random)
}

// agree asks the fleet for its key, to which ours is proposed, and reports whether that changes anything. A fleet that cannot
// be asked now is asked later.
func (k *mockKey) agree(ctx context.Context, f *fleet.Fleet, log *slog.Logger) (changed bool) {
	if f == nil {
		return false
	}
	theirs, err := f.Agree(ctx, "mock_key", k.random)
	if err != nil {
		if said := k.failed || errors.Is(err, fleet.ErrDown); !said {
			log.Warn("the fleet's key for the salts of unknown users is not known, going on with another", "error", err)
		}
		k.agreed, k.failed = false, !errors.Is(err, fleet.ErrDown)
		return false
	}
	changed = !bytes.Equal(theirs, k.random)
	k.random, k.agreed, k.failed = theirs, true, false
	return changed
}

// keepAgreeing has the server use the key of the fleet, until ctx ends.
func (w *weir) keepAgreeing(ctx context.Context) {
	for {
		w.reloading.Lock()
		rest := agreeEvery
		if !w.mock.agreed {
			rest = agreeSoon
		}
		w.reloading.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		w.agreeAgain(ctx)
	}
}

func (w *weir) agreeAgain(ctx context.Context) {
	w.reloading.Lock()
	next := w.mock
	w.reloading.Unlock()
	changed := next.agree(ctx, w.fleet, w.log) // may take as long as Redis may

	w.reloading.Lock()
	defer w.reloading.Unlock()
	w.mock = next
	if !changed {
		return
	}
	options, err := w.options(w.cfg)
	if err == nil {
		err = w.server.Reload(options)
	}
	if err != nil { // such as a certificate that is being replaced at this moment
		w.log.Warn("use the fleet's key for the salts of unknown users", "error", err)
		w.mock.agreed = false
	}
}
