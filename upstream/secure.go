package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// What weir shows to whoever answers in the place of a database:
//
//	                    TLS, certificate   TLS, any certificate   TLS, any certificate   without TLS        Unix
//	the server asks for verified           sslmode=require        otherwise                                 socket
//	SCRAM, 4096 rounds  yes                yes                    yes                    yes                yes
//	SCRAM, fewer        yes                yes                    no                     sslmode=disable    yes
//	an md5 hash         yes                yes                    no                     sslmode=disable    yes
//	the password        yes                yes                    no                     no                 yes
//
// SCRAM shows the password to nobody, and proves who the server is. An md5 hash, or SCRAM with as few rounds as somebody likes who
// is not the server, lets whoever reads it try billions of guesses a second, so it is for those who have decided that nobody does.
// require_auth in the connection string says otherwise.
//
// Without sslmode a server of another machine must speak TLS (sslmode=require); one of this machine may (sslmode=prefer).

// Policy is what a server may be shown that asks for it.
type Policy struct {
	Password, MD5 bool
	FewRounds     bool // SCRAM with fewer than fewestRounds
}

// fewestRounds of SCRAM's key derivation are what PostgreSQL has unless scram_iterations says otherwise, and what RFC 7677 wants.
const fewestRounds = 4096

// trust is what a connection string says of those who answer.
type trust struct {
	mode        string // sslmode, "" when not said
	requireAuth string // "" when not said
	verified    bool   // a certificate is
}

func (t trust) policy(encrypted, socket bool) Policy {
	if t.requireAuth != "" {
		return Policy{Password: t.allows("password"), MD5: t.allows("md5"), FewRounds: t.allows("scram-sha-256")}
	}
	private := socket || encrypted && (t.verified || t.mode == "require")
	guessable := private || !encrypted && t.mode == "disable"
	return Policy{Password: private, MD5: guessable, FewRounds: guessable}
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

// unsafeErrors are pgconn's when a server is not what the connection string asks for, or not the server; it has no types for them.
var unsafeErrors = []struct{ text, do string }{
	{"server refused TLS connection", "expected a server that speaks TLS, or sslmode=disable in the connection string where nobody can listen or answer on the way"},
	{"failed to verify certificate", "expected a certificate that sslrootcert vouches for, of the host by its name"},
	{"x509: ", "expected a certificate that sslrootcert vouches for"},
	{"require_auth check failed", "expected a method that require_auth has"},
	{"channel binding", "expected a server that proves the password together with its certificate"},
	{"sslcertmode check failed", "expected a server that asks for the certificate in sslcert"},
	{"invalid SCRAM ServerSignature", "expected a server that knows the password, too"},
}

// Explain makes of an error of a connect what an operator can use.
func (u *Upstream) Explain(err error) error {
	if err == nil {
		return nil
	}
	broken, pgErr := (*Unsafe)(nil), (*pgconn.PgError)(nil)
	if errors.As(err, &broken) || errors.As(err, &pgErr) {
		return err
	}
	for _, known := range unsafeErrors {
		if strings.Contains(err.Error(), known.text) {
			return &Unsafe{What: err.Error(), Do: known.do, err: err}
		}
	}
	return err
}

// loginReader reads along with a login to see how the server wants it to go. pgconn gets to see a request only after it was found
// to be harmless.
type loginReader struct {
	io.Reader
	cfg    *pgconn.Config
	policy Policy

	in   bool   // the server has let us in
	over bool   // it has told all that it has to tell
	head []byte // of the message that is under way, as far as it is read
	skip int    // what is left of it
	body []byte // of SCRAM's challenge, as far as it is read
}

// loginHead is the header of a message and the code of an Authentication message.
const loginHead = 1 + 4 + 4

// Codes of Authentication messages.
const (
	authOk        = 0
	authCleartext = 3
	authMD5       = 5
	authSASL      = 10
	authChallenge = 11
)

var errBehindOk = errors.New("the server asks for a proof of the password when it has let us in")

// longestChallenge is how much of a challenge is looked at; libpq takes no longer request.
const longestChallenge = 2000

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
			if l.body != nil && len(l.body) < longestChallenge {
				l.body = append(l.body, b[:n]...)
			}
			l.skip -= n
			b = b[n:]
			if err := l.challengeRead(); err != nil {
				return err
			}
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
		l.over = l.over || l.head[0] == 'Z'
		l.skip, l.head = max(0, length-4), l.head[:0]
		return nil
	}
	if len(l.head) < loginHead {
		return nil
	}
	code := int(l.head[5])<<24 | int(l.head[6])<<16 | int(l.head[7])<<8 | int(l.head[8])
	l.skip, l.head = max(0, length-8), l.head[:0]
	switch {
	case l.in: // pgconn would answer
		return errBehindOk
	case code == authOk:
		l.in = true
	case code == authCleartext && !l.policy.Password:
		return Refuse("password")
	case code == authMD5 && !l.policy.MD5:
		return Refuse("md5")
	case code == authSASL:
		l.cfg.Password = auth.Prepare(l.cfg.Password)
	case code == authChallenge && !l.policy.FewRounds:
		l.body = make([]byte, 0, 128)
	}
	return nil
}

// rounds finds the number in SCRAM's server-first-message (r=…,s=…,i=…).
var rounds = regexp.MustCompile(`,i=([0-9]+)$`)

// challengeRead deals with SCRAM's challenge once all of it has come.
func (l *loginReader) challengeRead() error {
	if l.body == nil || l.skip > 0 {
		return nil
	}
	few := FewRounds(l.body)
	l.body = nil
	if few {
		return Refuse("scram-sha-256")
	}
	return nil
}

// FewRounds says that a challenge of SCRAM asks for so few that the password can be guessed from the answer. What is no challenge is
// for others to refuse.
func FewRounds(challenge []byte) bool {
	found := rounds.FindSubmatch(challenge)
	if found == nil {
		return false
	}
	n, err := strconv.Atoi(string(found[1]))
	return err == nil && n < fewestRounds
}

// Refuse is the error of a login in which the server asked for what the policy does not allow: password, md5, or scram-sha-256 with
// few rounds.
func Refuse(method string) error {
	what := map[string]string{
		"password":      "the password itself",
		"md5":           "an md5 hash of the password, which can be guessed,",
		"scram-sha-256": fmt.Sprintf("SCRAM with fewer than %d rounds, by which the password can be guessed,", fewestRounds),
	}[method]
	instead := "scram-sha-256 in the server's pg_hba.conf"
	if method == "scram-sha-256" {
		instead = "scram_iterations of the server to be that many"
	}
	return &Unsafe{
		What: fmt.Sprintf("the server asks for %s over a connection on which anybody may be the server, and does not get it", what),
		Do:   fmt.Sprintf("expected %s, sslmode=verify-full in the connection string, or require_auth=%s there to send it nevertheless", instead, method),
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
