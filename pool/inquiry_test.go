package pool_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

// Logins that ask for something new each time cost the others no connection.
func TestHardlyAnythingIsAskedOfTheServer(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 2})
	c := &census{}
	fake := pgtest.ServeEach(t, c.script)
	p := b.pool(fake.DSN())
	lent := b.borrow(p)
	for i := range 200 {
		if _, err := p.Greet(t.Context(), append(settings("search_path", fmt.Sprintf("tenant_%d", i)), settings("app.request", fmt.Sprint(i))...)); err != nil {
			t.Fatal(err)
		}
	}
	if n := fake.Accepted(); n != 1 {
		t.Errorf("%d connections for 200 logins with texts, want the one that is lent", n)
	}
	began := time.Now()
	for i := range 200 {
		if _, err := p.Greet(t.Context(), settings("statement_timeout", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if n, most := fake.Accepted(), 1+pool.FewSpare+1+int(time.Since(began)/time.Second); n > most {
		t.Errorf("%d connections for 200 logins with numbers, want at most %d", n, most)
	}
	idle := b.borrow(p) // the budget is full
	release(idle)
	made := fake.Accepted()
	time.Sleep(1100 * time.Millisecond) // the next inquiry's turn has come, but there is no free place
	if _, err := p.Greet(t.Context(), settings("statement_timeout", "1h")); err != nil {
		t.Fatal(err)
	}
	if n := fake.Accepted(); n != made {
		t.Errorf("%d connections were opened, and others closed for it", n-made)
	}
	release(lent)
	b.settled()
}

// What must be asked is asked once, whoever asks, and at a rate.
func TestWhatIsNeededIsAskedOnceAndAtARate(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 2})
	c := &census{}
	fake := pgtest.ServeEach(t, c.script)
	p := b.pool(fake.DSN())
	release(b.borrow(p))
	var logins sync.WaitGroup
	for range 50 {
		logins.Go(func() {
			if _, err := p.Greet(t.Context(), settings("TimeZone", "Europe/Vienna")); err != nil {
				t.Error(err)
			}
		})
	}
	logins.Wait()
	if n := fake.Accepted(); n != 2 {
		t.Errorf("%d connections, want one more", n)
	}
	var many int
	var mu sync.Mutex
	for i := range 100 {
		logins.Go(func() {
			_, err := p.Greet(t.Context(), settings("role", fmt.Sprint("tenant", i)))
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, pool.ErrManyNew) {
				many++
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	logins.Wait()
	if want := 100 - pool.FewNeeded - 6; many < want {
		t.Errorf("%d of 100 were told to come back, want at least %d", many, want)
	}
	b.settled()
}

// A name that the server does not know is refused from memory.
func TestARefusedSettingIsRemembered(t *testing.T) {
	b := newBench(t, pool.Config{Connections: 2})
	fake := pgtest.ServeEach(t, func(n int) pgtest.Script {
		if n > 0 {
			return pgtest.Script{pgtest.Refuse("42704", "unrecognized configuration parameter")}
		}
		return pgtest.Script{pgtest.AcceptStartup(), pgtest.ExpectClose()}
	})
	p := b.pool(fake.DSN())
	release(b.borrow(p))
	for i := range 100 {
		if _, err := p.Greet(t.Context(), settings("nonsense", fmt.Sprint(i))); err == nil {
			t.Fatal("it is taken")
		}
	}
	if n := fake.Accepted(); n != 2 {
		t.Errorf("the server was asked %d times", n-1)
	}
	b.settled()
}

func settings(name, value string) []pool.Setting { return []pool.Setting{{Name: name, Value: value}} }
