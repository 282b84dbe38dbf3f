package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/pgtest"
)

const patience = 20 * time.Second

// echo sends back what it receives, until the end of the stream. It reads nothing while it has something to write.
type echo struct {
	conn   eventloop.Conn
	group  *eventloop.Group
	owner  atomic.Pointer[eventloop.Loop]
	roams  bool // after each write the connection changes loops
	out    []byte
	ended  bool
	moves  int
	closed chan struct{}
}

func (e *echo) Ready(l *eventloop.Loop, events eventloop.Events) {
	if e.owner.Load() != l || e.conn.Loop() != l {
		return // on its way to another loop
	}
	e.conn.Note(events)
	e.advance(l)
}

func (e *echo) advance(l *eventloop.Loop) {
	for {
		if err := e.conn.Flush(); err != nil {
			e.stuck(err)
			return
		}
		if len(e.out) > 0 {
			n, err := e.conn.Write(e.out)
			e.out = e.out[n:]
			if err != nil {
				e.stuck(err)
				return
			}
			if e.roams && e.moved() {
				return
			}
		}
		if e.ended {
			e.conn.CloseWrite()
			e.finish()
			return
		}
		if !e.conn.Readable() {
			return
		}
		n, err := e.conn.Read(l.Scratch)
		if errors.Is(err, eventloop.ErrAgain) {
			return
		}
		e.ended = err != nil
		e.out = append([]byte(nil), l.Scratch[:n]...)
	}
}

func (e *echo) stuck(err error) {
	if !errors.Is(err, eventloop.ErrAgain) {
		e.finish()
	}
}

func (e *echo) finish() {
	e.conn.Close()
	close(e.closed)
}

// moved hands the connection to the next loop, unless it is there already. From the moment the new owner is named this loop
// does not touch it.
func (e *echo) moved() bool {
	next := e.group.Next()
	if next == e.conn.Loop() {
		return false
	}
	e.owner.Store(next)
	next.Post(eventloop.TaskFunc(func() {
		if err := e.conn.MoveTo(next); err != nil {
			panic(err)
		}
		e.moves++
		e.advance(next)
	}))
	return true
}

// pair is a connection whose far end is an echo on a loop.
type pair struct {
	net.Conn
	echo *echo
}

// connect sets an echo up; with a TLS configuration over TLS. When the test is over its client leaves, and the echo is waited
// for: a loop that is stopped closes none of its sockets, so whoever stops it first has to see them closed.
func connect(t *testing.T, g *eventloop.Group, roams bool, config *tls.Config) *pair {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan *echo, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		accepted <- serveEcho(conn, g, roams, config)
	}()
	var client net.Conn
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if config != nil {
		secured := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		if err := secured.Handshake(); err != nil {
			t.Fatal(err)
		}
		client = secured
	}
	_ = client.SetDeadline(time.Now().Add(patience))
	p := &pair{client, <-accepted}
	t.Cleanup(func() { p.leave(t) })
	return p
}

// leave closes the client's side and waits until the echo has heard of it.
func (p *pair) leave(t *testing.T) {
	under := p.Conn
	if secured, ok := under.(*tls.Conn); ok { // whose goodbye might have to wait
		under = secured.NetConn()
	}
	_ = under.Close()
	select {
	case <-p.echo.closed:
	case <-time.After(patience):
		t.Error("the echo has not noticed that its client left")
	}
}

func serveEcho(conn net.Conn, g *eventloop.Group, roams bool, config *tls.Config) *echo {
	e := &echo{group: g, roams: roams, closed: make(chan struct{})}
	var secure *eventloop.Secure
	if config != nil {
		secure = eventloop.NewSecure(conn)
		secured := tls.Server(secure, config)
		if err := secured.Handshake(); err != nil {
			panic(err)
		}
		secure.Detach(secured, nil)
	}
	fd, err := eventloop.Take(conn)
	if err != nil {
		panic(err)
	}
	loop := g.Next()
	e.owner.Store(loop)
	loop.Post(eventloop.TaskFunc(func() {
		if err := e.conn.Attach(loop, fd, secure, e); err != nil {
			panic(err)
		}
		e.advance(loop)
	}))
	return e
}

func group(t *testing.T, n int) *eventloop.Group {
	t.Helper()
	g, err := eventloop.NewGroup(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func config(t *testing.T) *tls.Config {
	t.Helper()
	authority, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Certificate(certs.Request{CommonName: "weir", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// kinds are the ways a connection can be.
func kinds(t *testing.T) map[string]struct {
	roams  bool
	config *tls.Config
} {
	c := config(t)
	older := c.Clone()
	older.MaxVersion = tls.VersionTLS12
	return map[string]struct {
		roams  bool
		config *tls.Config
	}{
		"plain":                 {false, nil},
		"plain, changing loops": {true, nil},
		"TLS 1.3":               {false, c},
		"TLS 1.2":               {false, older},
		"TLS, changing loops":   {true, c},
	}
}

// Both sides write more than the sockets hold before they read, so each is blocked on the other again and again.
func TestBigTransfersBothWaysArriveWhole(t *testing.T) {
	pgtest.NoLeaks(t)
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			p := connect(t, group(t, 3), kind.roams, kind.config)
			const size = 16 << 20
			sent, received := sha256.New(), sha256.New()
			var writing sync.WaitGroup
			writing.Go(func() { writeRandom(t, p, size, sent) })
			if _, err := io.CopyN(received, p, size); err != nil {
				t.Fatal(err)
			}
			writing.Wait()
			if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
				t.Error("what came back is not what was sent")
			}
			_ = p.Close()
			<-p.echo.closed
			if kind.roams && p.echo.moves == 0 {
				t.Error("the connection never moved")
			}
		})
	}
}

func writeRandom(t *testing.T, w io.Writer, size int, sum hash.Hash) {
	r := rand.NewChaCha8([32]byte{1})
	for size > 0 {
		b := make([]byte, min(size, 1+int(r.Uint64()%200_000)))
		_, _ = r.Read(b)
		sum.Write(b)
		if _, err := w.Write(b); err != nil {
			t.Error(err)
			return
		}
		size -= len(b)
	}
}

func TestThousandsOfSmallMessages(t *testing.T) {
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			p := connect(t, group(t, 2), kind.roams, kind.config)
			buf := make([]byte, 8)
			for i := range uint64(5000) {
				binary.BigEndian.PutUint64(buf, i)
				n := 1 + int(i%8)
				if _, err := p.Write(buf[8-n:]); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, n)
				if _, err := io.ReadFull(p, got); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
				if !bytes.Equal(got, buf[8-n:]) {
					t.Fatalf("message %d: %x came back, want %x", i, got, buf[8-n:])
				}
			}
		})
	}
}

// Many TLS records in one segment: the loop hears of them once.
func TestManySmallMessagesInOneSegment(t *testing.T) {
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			p := connect(t, group(t, 2), kind.roams, kind.config)
			var want []byte
			var writing sync.WaitGroup
			for i := range 20_000 {
				want = append(want, byte(i))
			}
			writing.Go(func() {
				for i := range want {
					if _, err := p.Write(want[i : i+1]); err != nil {
						t.Error(err)
						return
					}
				}
			})
			got := make([]byte, len(want))
			if _, err := io.ReadFull(p, got); err != nil {
				t.Fatal(err)
			}
			writing.Wait()
			if !bytes.Equal(got, want) {
				t.Error("what came back is not what was sent")
			}
		})
	}
}

func TestHalfCloseIsAnsweredBeforeTheEnd(t *testing.T) {
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			p := connect(t, group(t, 2), kind.roams, kind.config)
			if _, err := p.Write([]byte("the last words")); err != nil {
				t.Fatal(err)
			}
			if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(p)
			if err != nil || string(got) != "the last words" {
				t.Fatalf("read %q, %v", got, err)
			}
			<-p.echo.closed
		})
	}
}

// The echo holds at most one read's worth for a client that does not read; the rest stays with the client.
func TestAPeerThatDoesNotReadStopsBeingReadFrom(t *testing.T) {
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			p := connect(t, group(t, 2), kind.roams, kind.config)
			_ = p.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			block, written := make([]byte, 64<<10), 0
			for {
				n, err := p.Write(block)
				written += n
				if err != nil {
					break
				}
				if written > 256<<20 {
					t.Fatal("256 MB were taken from a peer that reads nothing")
				}
			}
			if _, ok := p.Conn.(*tls.Conn); ok { // a write that timed out ends a TLS stream
				return
			}
			if _, err := io.CopyN(io.Discard, p, int64(written)); err != nil { // and now it goes on
				t.Fatal(err)
			}
		})
	}
}

func TestAPeerThatVanishesIsNoticed(t *testing.T) {
	for name, kind := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			p := connect(t, group(t, 2), kind.roams, kind.config)
			under := p.Conn
			if secured, ok := under.(*tls.Conn); ok {
				under = secured.NetConn()
			}
			if err := under.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			_ = under.Close() // RST
			<-p.echo.closed
		})
	}
}

// Descriptors are reused at once, by connections of other loops: an event meant for the one before must not reach the next,
// and none may get lost.
func TestConnectionsComeAndGo(t *testing.T) {
	pgtest.NoLeaks(t)
	g := group(t, 3)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving, clients sync.WaitGroup
	var echoes []*echo
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			echoes = append(echoes, serveEcho(conn, g, rand.IntN(2) == 0, nil))
		}
	})
	for c := range 8 {
		clients.Go(func() {
			for i := range 150 {
				if err := oneConversation(l.Addr().String(), uint64(c<<32|i)); err != nil {
					t.Errorf("client %d, connection %d: %v", c, i, err)
					return
				}
			}
		})
	}
	clients.Wait()
	_ = l.Close()
	serving.Wait()
	for _, e := range echoes { // each has to hear of its client's end
		<-e.closed
	}
}

func oneConversation(addr string, id uint64) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	for range rand.IntN(4) {
		if err := binary.Write(conn, binary.BigEndian, id); err != nil {
			return err
		}
		var got uint64
		if err := binary.Read(conn, binary.BigEndian, &got); err != nil {
			return err
		}
		if got != id {
			return errors.New("received what another connection sent")
		}
	}
	if rand.IntN(3) == 0 {
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	return nil
}

// OpenSSL's client sends a KeyUpdate, and asks for one, when it reads a line with a K.
func TestKeyUpdate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl to send a KeyUpdate: crypto/tls does not")
	}
	g := group(t, 2)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := config(t)
	go func() {
		if conn, err := l.Accept(); err == nil {
			serveEcho(conn, g, true, cfg)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := exec.CommandContext(ctx, openssl, "s_client", "-connect", l.Addr().String(), "-tls1_3", "-brief")
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	client.Stderr = client.Stdout
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, say := range []string{"before", "K", "between", "K", "after"} {
		if _, err := io.WriteString(in, say+"\n"); err != nil {
			t.Fatal(err)
		}
		want := say
		if say == "K" {
			want = "KEYUPDATE"
		}
		for lines.Scan() && lines.Text() != want {
		}
		if lines.Text() != want {
			t.Fatalf("%q did not come back", say)
		}
	}
	_ = in.Close()
	if err := client.Wait(); err != nil {
		t.Error(err)
	}
}
