package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// What weir shows to whoever answers in the place of a database:
//
//	                    TLS, certificate   TLS, any certificate   TLS, any certificate   without TLS        Unix
//	the server asks for verified           sslmode=require        otherwise                                 socket
//	SCRAM               yes                yes                    yes                    yes                yes
//	an md5 hash         yes                yes                    no                     sslmode=disable    yes
//	the password        yes                yes                    no                     no                 yes
//
// SCRAM shows the password to nobody, and proves who the server is. An md5 hash lets everybody who reads it try billions of
// guesses a second, so it is for those who have decided that nobody can. require_auth in the connection string says otherwise.
//
// Without sslmode a server of another machine must speak TLS (sslmode=require); one of this machine may (sslmode=prefer).

// Policy is what a server may be shown that asks for it.
type Policy struct{ MD5, Password bool }

// trust is what a connection string says of those who answer.
type trust struct {
	mode        string // sslmode, "" when not said
	requireAuth string // "" when not said
	verified    bool   // a certificate is
}

func (t trust) policy(encrypted, socket bool) Policy {
	if t.requireAuth != "" {
		return Policy{Password: t.allows("password"), MD5: t.allows("md5")}
	}
	private := socket || encrypted && (t.verified || t.mode == "require")
	return Policy{Password: private, MD5: private || !encrypted && t.mode == "disable"}
}

// allows reads require_auth, whose form pgconn has checked: methods, or methods that are not allowed.
func (t trust) allows(method string) bool {
	listed, negative := false, false
	for word := range strings.SplitSeq(t.requireAuth, ",") {
		name, not := strings.CutPrefix(strings.TrimSpace(word), "!")
		listed, negative = listed || name == method, negative || not
	}
	return listed != negative
}

// Policy is what may be shown over a connection, with TLS or through a Unix socket.
func (u *Upstream) Policy(encrypted, socket bool) Policy { return u.trust.policy(encrypted, socket) }

// secure decides for each host how TLS is used.
func (r *reading) secure() error {
	mode := r.sslmode()
	if mode == "" {
		if err := r.requireTLS(); err != nil {
			return err
		}
	}
	for _, h := range r.hosts {
		for _, w := range h.ways {
			if w.TLSConfig != nil {
				w.TLSConfig.MinVersion = max(w.TLSConfig.MinVersion, r.versions.min)
				w.TLSConfig.MaxVersion = r.versions.max
				if r.versions.min != 0 {
					w.TLSConfig.MinVersion = r.versions.min
				}
			}
		}
		r.warnOf(h, mode)
	}
	setWays(r.cfg, r.hosts)
	r.findTrust(mode)
	return nil
}

// sslmode is what was said, or "" for nothing. What a service file says is told from what comes of it, but for prefer, which is
// also what comes of nothing.
func (r *reading) sslmode() string {
	if mode, ok := r.setting("sslmode", "PGSSLMODE"); ok {
		return mode
	}
	if r.cfg.SSLNegotiation == "direct" || strings.EqualFold(r.written["ssl"], "true") {
		return "require"
	}
	for _, h := range r.hosts {
		switch {
		case h.socket():
			continue
		case len(h.ways) == 2 && h.ways[0].TLSConfig == nil:
			return "allow"
		case len(h.ways) == 2:
			return ""
		case h.ways[0].TLSConfig == nil:
			return "disable"
		case verifies(h.ways[0].TLSConfig):
			return "verify-ca"
		}
		return "require"
	}
	return ""
}

// requireTLS is sslmode=require for every host that is not of this machine.
func (r *reading) requireTLS() error {
	required, err := parse(with(r.text, "sslmode", "require"))
	if err != nil {
		return err
	}
	strict := reading{cfg: required}
	strict.findHosts()
	for i := range r.hosts {
		if !r.hosts[i].Local() && i < len(strict.hosts) {
			r.hosts[i].ways = strict.hosts[i].ways
		}
	}
	return nil
}

// verifies says that a certificate is checked.
func verifies(c *tls.Config) bool {
	return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil)
}

func (r *reading) warnOf(h Host, mode string) {
	const right = "expected sslmode=verify-full with sslrootcert"
	tlsOnly := len(h.ways) == 1 && h.ways[0].TLSConfig != nil
	var text string
	switch {
	case h.socket(), tlsOnly && verifies(h.ways[0].TLSConfig):
		return
	case mode == "" && h.Local():
		text = "names no sslmode, so that whoever answers in the place of the database is believed, with TLS or without; " + right +
			", or sslmode=disable where nobody else can answer there"
	case mode == "":
		text = "names no sslmode, so that TLS is required but any certificate believed, of whoever answers in the place of the database; " + right
	case h.Local(), mode == "disable":
		return
	case mode == "prefer", mode == "allow":
		text = "has sslmode=" + mode + ", which anybody on the way to the database can turn into no TLS at all; " + right
	default:
		text = "has sslmode=" + mode + ", which believes any certificate, of whoever answers in the place of the database; " + right
	}
	for _, said := range r.warnings {
		if said == text {
			return
		}
	}
	r.warn(text)
}

func (r *reading) findTrust(mode string) {
	r.trust = trust{mode: mode, requireAuth: r.cfg.RequireAuth}
	for _, h := range r.hosts {
		for _, w := range h.ways {
			r.trust.verified = r.trust.verified || verifies(w.TLSConfig)
		}
	}
}

// watch is over the logins of one dial, which may try several servers one after the other.
type watch struct {
	trust    trust
	password string
	cfg      *pgconn.Config // that pgconn goes by; it is its own copy
	policy   Policy         // on the connection that is tried
}

// watched has every login with c, which is for one dial, watched.
func watched(c *pgconn.Config, t trust) {
	w := &watch{trust: t, password: c.Password, cfg: c}
	build := c.BuildFrontend
	c.AfterNetConnect = w.connected
	c.BuildFrontend = func(r io.Reader, out io.Writer) *pgproto3.Frontend {
		return build(&loginReader{Reader: r, cfg: w.cfg, policy: w.policy}, out)
	}
}

// connected is called before anything is said on a connection.
func (w *watch) connected(_ context.Context, c *pgconn.Config, conn net.Conn) (net.Conn, error) {
	_, encrypted := conn.(*tls.Conn)
	w.cfg, w.policy = c, w.trust.policy(encrypted, conn.RemoteAddr().Network() == "unix")
	c.Password = w.password // another server may have been tried before, which asked for SCRAM
	return conn, nil
}

// Unsafe is the error of a login that weir has broken off: it is not to be had without giving something away.
type Unsafe struct {
	What string
	Do   string
	err  error
}

// Error says what to do, too.
func (e *Unsafe) Error() string { return e.What + "; " + e.Do }

// Unwrap is pgconn's error, if there was one.
func (e *Unsafe) Unwrap() error { return e.err }

// Explain makes of an error of a connect what an operator can use.
func (u *Upstream) Explain(err error) error {
	if err == nil || !strings.Contains(err.Error(), "server refused TLS connection") {
		return err
	}
	if unsafe := (*Unsafe)(nil); errors.As(err, &unsafe) { // of another way to the same server
		return err
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return err
	}
	return &Unsafe{
		What: err.Error(),
		Do:   "expected a server that speaks TLS, or sslmode=disable in the upstream where nobody can listen or answer on the way",
		err:  err,
	}
}

// loginReader reads along with a login to see how the server wants it to go. pgconn gets to see a request only after it was found
// to be harmless.
type loginReader struct {
	io.Reader
	cfg    *pgconn.Config
	policy Policy

	over bool
	head []byte // of the message that is under way, as far as it is read
	skip int    // what is left of it
}

// loginHead is the header of a message and the code of an Authentication message.
const loginHead = 1 + 4 + 4

// Codes of Authentication messages.
const (
	authOk        = 0
	authCleartext = 3
	authMD5       = 5
	authSASL      = 10
)

func (l *loginReader) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if l.over {
		return n, err
	}
	if unsafe := l.look(b[:n]); unsafe != nil {
		return 0, unsafe
	}
	return n, err
}

// look takes note of what has come.
func (l *loginReader) look(b []byte) error {
	for len(b) > 0 && !l.over {
		if l.skip > 0 {
			n := min(l.skip, len(b))
			l.skip -= n
			b = b[n:]
			continue
		}
		l.head = append(l.head, b[0])
		b = b[1:]
		if err := l.headRead(); err != nil {
			return err
		}
	}
	return nil
}

// headRead deals with the beginning of a message once there is enough of it.
func (l *loginReader) headRead() error {
	if len(l.head) < 5 {
		return nil
	}
	length := int(l.head[1])<<24 | int(l.head[2])<<16 | int(l.head[3])<<8 | int(l.head[4])
	if l.head[0] != 'R' {
		l.skip, l.head = max(0, length-4), l.head[:0]
		return nil
	}
	if len(l.head) < loginHead {
		return nil
	}
	code := int(l.head[5])<<24 | int(l.head[6])<<16 | int(l.head[7])<<8 | int(l.head[8])
	l.skip, l.head = max(0, length-8), l.head[:0]
	switch {
	case code == authOk:
		l.over = true
	case code == authCleartext && !l.policy.Password:
		return Refuse("password")
	case code == authMD5 && !l.policy.MD5:
		return Refuse("md5")
	case code == authSASL:
		l.cfg.Password = auth.Prepare(l.cfg.Password)
	}
	return nil
}

// Refuse is the error of a login in which the server asked for what the policy does not allow: password or md5.
func Refuse(method string) error {
	what := "the password itself"
	if method == "md5" {
		what = "an md5 hash of the password, which can be guessed,"
	}
	return &Unsafe{
		What: fmt.Sprintf("the server asks for %s over a connection on which anybody may be the server, and does not get it", what),
		Do: fmt.Sprintf("expected scram-sha-256 in the server's pg_hba.conf, sslmode=verify-full in the upstream, or require_auth=%s there to send it nevertheless",
			method),
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
