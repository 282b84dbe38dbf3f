package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/internal/redistest"
)

func TestWeirsAgreeOnWhatTheFirstHasProposed(t *testing.T) {
	s := redistest.Start(t)
	first, second := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	agree := func(f *fleet.Fleet, proposed []byte) []byte {
		t.Helper()
		got, err := f.Agree(context.Background(), "mock_key", proposed)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	one := open(t, s.URL()+patient, "prod")
	if got := agree(one, first); !bytes.Equal(got, first) {
		t.Errorf("the first weir got %x, not what it proposed", got)
	}
	one.Close()
	if got := agree(open(t, s.URL()+patient, "prod"), second); !bytes.Equal(got, first) {
		t.Errorf("a weir that came after all had left got %x, not what was there", got)
	}
	if got := agree(open(t, s.URL()+patient, "test"), second); !bytes.Equal(got, second) {
		t.Errorf("another fleet got %x, not its own", got)
	}
}

func TestWhatIsNotWhatWasProposedIsNotAgreedOn(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL()+patient, "prod")
	proposed := bytes.Repeat([]byte{1}, 32)
	for what, value := range map[string]string{
		"empty": "", "short": "0102", "long": strings.Repeat("01", 33), "no digits": strings.Repeat("zz", 32), "huge": strings.Repeat("0", 1<<20),
	} {
		if err := client(t, s).Set(context.Background(), "weir:{prod}:mock_key", value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Agree(context.Background(), "mock_key", proposed); err == nil {
			t.Errorf("%s: agreed on %x", what, got)
		}
	}
	client(t, s).Del(context.Background(), "weir:{prod}:mock_key")
	client(t, s).LPush(context.Background(), "weir:{prod}:mock_key", "a list")
	if got, err := f.Agree(context.Background(), "mock_key", proposed); err == nil {
		t.Errorf("a list: agreed on %x", got)
	}
}

func TestNobodyAgreesWithoutRedis(t *testing.T) {
	s := redistest.Start(t)
	f := open(t, s.URL(), "prod")
	s.Stop()
	until(t, "Redis is seen to be gone", isDown(f))
	for _, f := range []*fleet.Fleet{f, nil} {
		if _, err := f.Agree(context.Background(), "mock_key", make([]byte, 32)); !errors.Is(err, fleet.ErrDown) {
			t.Errorf("got %v, want ErrDown", err)
		}
	}
}
