package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// harmKind is a kind of neighbour. Each does what it does once, and again when its connection has ended.
type harmKind struct {
	name    string
	clients int
	do      func(context.Context, target, int) error // returns when there is no more harm in it
}

var harms = []harmKind{
	{"clients that stall in ten ways", len(waysToStall), stall},
	{"a client that sends 4 MB at once", 1, burst},
	{"10000 silent sockets", 10_000, silentSocket},
	{"500 logins that stop in the middle", 500, halfLogin},
	{"a server process that is frozen", 1, frozenServer},
	{"a result that nobody reads", 1, unread},
}

// settleTime is how long neighbours have to get where they do harm.
const settleTime = time.Second

// harm has neighbours of a kind do their harm until told to finish.
func harm(ctx context.Context, j job) error {
	i := slices.IndexFunc(harms, func(k harmKind) bool { return k.name == j.Kind })
	if i < 0 {
		return fmt.Errorf("harm %q is not known", j.Kind)
	}
	var all sync.WaitGroup
	for n := range j.Clients {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = harms[i].do(ctx, j.Target, n) // however it was ended
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond): // one that is refused must not set this spinning
				}
			}
		})
	}
	time.Sleep(settleTime)
	if err := printOutcome(outcome{Done: j.Clients}, nil); err != nil {
		return err
	}
	all.Wait()
	return nil
}

// closeWith closes c as soon as ctx ends.
func closeWith(ctx context.Context, c io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.Close() })
}

// untilClosed waits, without reading what is said, until the other side has closed the connection.
func untilClosed(ctx context.Context, c net.Conn) {
	one := make([]byte, 1)
	for ctx.Err() == nil {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(one); err != nil {
			if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
				return
			}
		}
	}
}

var (
	beginQuery = message('Q', []byte("begin\x00"))
	syncBatch  = message('S', nil)
	flushBatch = message('H', nil)
	unnamed    = message('B', make([]byte, 8))
	describe   = message('D', []byte("P\x00"))
)

func parseOf(sql string) []byte { return message('P', []byte("\x00"+sql+"\x00\x00\x00")) }

func executeOf(rows byte) []byte { return message('E', []byte{0, 0, 0, 0, rows}) }

// endless is a result that fills every buffer on its way.
const endless = "select repeat('x', 1000) from generate_series(1, 10000000)"

// waysToStall are what is sent before nothing more is.
var waysToStall = []struct {
	name  string
	block bool // in a transaction block
	send  []byte
}{
	{"the front of a message", false, parseOf(strings.Repeat("x", 100_000))[:6]},
	{"half of a long message", false, parseOf("select '" + strings.Repeat("x", 100_000) + "'")[:50_000]},
	{"half of a message in a block", true, parseOf("select 1")[:8]},
	{"Parse without Sync", false, parseOf("select 1")},
	{"Execute without Sync", false, slices.Concat(parseOf("select 1"), unnamed, executeOf(0))},
	{"Execute and Flush without Sync", false, slices.Concat(parseOf("select 1"), unnamed, executeOf(0), flushBatch)},
	{"portions of rows", false, slices.Concat(parseOf(endless), unnamed, executeOf(10), flushBatch)},
	{"COPY without data", false, message('Q', []byte("create temp table if not exists stalled (v text) on commit drop; copy stalled from stdin\x00"))},
	{"rows that are not read", false, message('Q', []byte(endless+"\x00"))},
	{"COPY that is not read", false, message('Q', []byte("copy ("+endless+") to stdout\x00"))},
}

func stall(ctx context.Context, t target, n int) error {
	c, err := dial(ctx, t)
	if err != nil {
		return err
	}
	defer c.Close()
	defer closeWith(ctx, c)()
	way := waysToStall[n%len(waysToStall)]
	if way.block {
		if err := c.query(beginQuery); err != nil {
			return err
		}
		if err := c.query(selectOne); err != nil {
			return err
		}
	}
	if _, err := c.Write(way.send); err != nil {
		return err
	}
	if strings.Contains(way.name, "not read") {
		<-ctx.Done() // it would have to be read to notice the end
		return nil
	}
	untilClosed(ctx, c.Conn)
	return nil
}

// burst asks for cheap things, 4 MB of them at once, in batches and in one, and reads the answers.
func burst(ctx context.Context, t target, _ int) error {
	const size = 4 << 20
	c, err := dial(ctx, t)
	if err != nil {
		return err
	}
	defer c.Close()
	defer closeWith(ctx, c)()
	one := slices.Concat(parseOf("select 1"), unnamed, describe, executeOf(0))
	batch := slices.Concat(one, syncBatch)
	for _, wire := range [][]byte{
		bytes.Repeat(batch, size/len(batch)),
		append(bytes.Repeat(one, size/len(one)), syncBatch...),
		bytes.Repeat(syncBatch, size/len(syncBatch)),
		bytes.Repeat(selectOne, size/len(selectOne)),
	} {
		answers := max(1, bytes.Count(wire, syncBatch)+bytes.Count(wire, selectOne))
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(wire)
			sent <- err
		}()
		for range answers {
			if err := c.untilReady(); err != nil {
				return err
			}
		}
		if err := <-sent; err != nil {
			return err
		}
	}
	return nil
}

// silentSocket connects, from one of many addresses, and says nothing.
func silentSocket(ctx context.Context, t target, n int) error { return connectAnd(ctx, t, n, nil) }

// halfLogin begins a login and stops.
func halfLogin(ctx context.Context, t target, n int) error {
	all := startup(t.User, t.Database)
	return connectAnd(ctx, t, n, all[:len(all)/2])
}

// connectAnd connects, sends what there is to send, and waits for the end.
func connectAnd(ctx context.Context, t target, n int, send []byte) error {
	const each = 5000 // connections from one address
	d := net.Dialer{Timeout: patience, Control: choosePortLate, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n/each))}}
	c, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer closeWith(ctx, c)()
	if _, err := c.Write(send); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// frozenServer stops the server process that it has, and asks it something.
func frozenServer(ctx context.Context, t target, _ int) error {
	c, err := dial(ctx, t)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.query(beginQuery); err != nil {
		return err
	}
	pid, err := c.backend()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	defer syscall.Kill(pid, syscall.SIGCONT) //nolint:errcheck // it may have ended meanwhile
	if _, err := c.Write(selectOne); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// backend is the process that serves the transaction.
func (c *conn) backend() (int, error) {
	if _, err := c.Write(message('Q', []byte("select pg_backend_pid()\x00"))); err != nil {
		return 0, err
	}
	pid := 0
	for {
		typ, body, err := c.receive()
		switch {
		case err != nil:
			return 0, err
		case typ == 'D' && len(body) > 6:
			if pid, err = strconv.Atoi(string(body[6:])); err != nil {
				return 0, err
			}
		case typ == 'Z':
			return pid, nil
		}
	}
}

// unread asks for more than it takes.
func unread(ctx context.Context, t target, _ int) error {
	c, err := dial(ctx, t)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(message('Q', []byte(endless+"\x00"))); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
