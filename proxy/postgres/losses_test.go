package postgres

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestLosses(t *testing.T) {
	app := loser{"app", netip.MustParseAddr("10.0.0.1")}
	other := loser{"other", netip.MustParseAddr("10.0.0.1")}
	elsewhere := loser{"app", netip.MustParseAddr("10.0.0.2")}
	type step struct {
		after   time.Duration
		who     loser // nobody: a connect
		answers bool  // the connect
		several bool
		counts  int // losses that a failed connect makes failures of
	}
	fails, answers := step{}, step{answers: true}
	tests := map[string][]step{
		"one caller's say nothing": {{who: app}, {who: app}, {who: app}},
		"unless a connect fails":   {{who: app}, {who: app}, {counts: 2}, fails},
		"which answers":            {{who: app}, {who: app}, answers, fails},
		"another user's do":        {{who: app}, {who: other, several: true}, {who: app, several: true}, {counts: 1}},
		"another address' do":      {{who: app}, {who: elsewhere, several: true}},
		"not long after":           {{who: app}, {after: 2 * time.Second, who: other}},
		"not after a connect":      {{who: app}, answers, {who: other}},
		"nor do old ones count":    {{who: app}, {after: time.Minute}},
		"a connect may take long":  {{who: app}, {after: 5 * time.Second, counts: 1}},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			var l losses
			now := time.Now()
			for i, s := range steps {
				now = now.Add(s.after)
				switch {
				case s.who != loser{}:
					if got := l.note(s.who, now); got != s.several {
						t.Errorf("step %d: several: %v", i, got)
					}
				case s.answers:
					l.answered()
				default:
					if got := l.decide(now); got != s.counts {
						t.Errorf("step %d: %d count, want %d", i, got, s.counts)
					}
				}
			}
		})
	}
}

func TestIsShortage(t *testing.T) {
	socket := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	tests := map[string]struct {
		err  error
		want bool
	}{
		"no descriptor left":                {fmt.Errorf("connect: %w", socket), true},
		"none left on the machine":          {os.NewSyscallError("socket", syscall.ENFILE), true},
		"at one of several addresses":       {errors.Join(errors.New("refused"), socket), true},
		"none left to ask for the name":     {&net.DNSError{Err: socket.Error(), Name: "db.internal"}, true},
		"a name that does not exist":        {&net.DNSError{Err: "no such host", Name: "db.internal", IsNotFound: true}, false},
		"a server that refuses connections": {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, false},
		"none at all":                       {nil, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := isShortage(test.err); got != test.want {
				t.Errorf("isShortage(%v) = %v", test.err, got)
			}
		})
	}
}
