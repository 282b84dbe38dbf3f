package pool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/pgwire"
)

// What a login may take of weir, in bytes and in iterations of SCRAM's key derivation. A PostgreSQL says a few hundred bytes
// and asks for 4096 iterations; a million are a third of a second of a core.
const (
	longestRequest = 2000 // an authentication request, as in libpq
	longestSaying  = 64 << 10
	longestLogin   = 1 << 20
	mostIterations = 1_000_000
)

// Codes of authentication requests (manual, "Message Formats").
const (
	authOk       = 0
	saslContinue = 11
)

var (
	errLongLogin  = errors.New("the server says too much for a login")
	errSecondSASL = errors.New("the server asks for a second proof of the password")
	errBehindOk   = errors.New("the server asks for a proof when it has let us in")
)

// guard reads what a server says while weir logs in, so that one that is not what it should be costs no more than a login that
// fails. pgconn makes room for whatever length a message claims, hears as many messages as come, and computes up to ten million
// iterations for each request, without looking at its deadline.
type guard struct {
	under   io.Reader
	said    int    // bytes so far
	message []byte // what has come of the message under way
	proved  bool   // the password, by SCRAM
	in      bool   // the server has let us in
}

// guardLogin has what a server says read through a guard, whoever else reads along.
func guardLogin(c *pgconn.Config) {
	build, after := c.BuildFrontend, c.AfterNetConnect
	c.AfterNetConnect = func(ctx context.Context, c *pgconn.Config, conn net.Conn) (_ net.Conn, err error) {
		c.BuildFrontend = build // of each server that is tried
		if after != nil {
			conn, err = after(ctx, c, conn)
		}
		c.BuildFrontend = guarded(c.BuildFrontend)
		return conn, err
	}
}

func guarded(build pgconn.BuildFrontendFunc) pgconn.BuildFrontendFunc {
	return func(r io.Reader, w io.Writer) *pgproto3.Frontend { return build(&guard{under: r}, w) }
}

// Read passes on what has been looked at. A message whose end makes it unacceptable never gets there whole.
func (g *guard) Read(p []byte) (int, error) {
	n, err := g.under.Read(p)
	if bad := g.look(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

func (g *guard) look(b []byte) error {
	if g.said += len(b); g.said > longestLogin {
		return errLongLogin
	}
	g.message = append(g.message, b...)
	for len(g.message) >= pgwire.HeaderSize {
		kind := g.message[0]
		n, err := pgwire.Length(g.message)
		if err != nil {
			return err
		}
		if n > longestSaying || kind == pgwire.Authentication && n > longestRequest {
			return fmt.Errorf("the server sends a message of type %q with %d bytes", kind, n)
		}
		whole := pgwire.HeaderSize + n
		if len(g.message) < whole {
			return nil
		}
		if kind == pgwire.Authentication {
			if err := g.request(g.message[pgwire.HeaderSize:whole]); err != nil {
				return err
			}
		}
		g.message = g.message[whole:]
	}
	return nil
}

// request looks at an authentication request. Behind the one that says that we are in there is none; one for a proof by SCRAM comes
// once, and does not ask for too much work.
func (g *guard) request(body []byte) error {
	if len(body) < 4 {
		return nil // pgconn's to refuse
	}
	switch code := binary.BigEndian.Uint32(body); {
	case g.in:
		return errBehindOk
	case code == authOk:
		g.in = true
		return nil
	case code != saslContinue:
		return nil
	case g.proved:
		return errSecondSASL
	}
	g.proved = true
	if n := iterations(body[4:]); n > mostIterations {
		return fmt.Errorf("the server asks for %d iterations of SCRAM, more than %d", n, mostIterations)
	}
	return nil
}

// iterations reads the number of a server-first-message (r=…,s=…,i=…), where pgconn reads it. What is not one is pgconn's to refuse.
func iterations(message []byte) int {
	parts := bytes.SplitN(message, []byte(","), 3)
	if len(parts) < 3 {
		return 0
	}
	n, _ := strconv.Atoi(string(bytes.TrimPrefix(parts[2], []byte("i="))))
	return n
}
