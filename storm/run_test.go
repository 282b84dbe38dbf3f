package storm_test

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/storm"
)

func TestKeptConnectionsServeAllFunctions(t *testing.T) {
	pg := pgtest.Shared(t)
	result, err := storm.Run(t.Context(), storm.Plan{
		DSN: pg.DSN(), Load: storm.Steady(500, 2*time.Second), Connections: storm.Kept, Kept: 20,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *result)
}

func TestFresh(t *testing.T) {
	pg := pgtest.Shared(t)
	result, err := storm.Run(t.Context(), storm.Plan{
		DSN: pg.DSN(), Load: storm.Steady(50, 2*time.Second), Function: storm.Function{Work: 4 * time.Millisecond},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *result)
}
