package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// access is what a route asks of the one who calls it.
type access int

const (
	probing   access = iota // anyone once a token is configured, so that a kubelet needs none; before that, local callers
	reading                 // the read or the write token; local callers while no read token is configured
	debugging               // the write token; local callers where that was asked for
)

// guard decides who may do what. The zero guard lets local callers read.
type guard struct {
	read, write  token
	localProfile bool
}

func newGuard(opts Options) guard {
	return guard{read: newToken(opts.ReadToken), write: newToken(opts.WriteToken), localProfile: opts.LocalProfile}
}

// check returns nil, or why the request may not have what it asks for.
func (g guard) check(r *http.Request, want access) *denial {
	if want == probing && (g.read.set || g.write.set) {
		return nil
	}
	switch bearer := bearerToken(r); {
	case g.write.is(bearer):
		return nil
	case g.read.is(bearer) && want == reading:
		return nil
	case g.read.set && want == reading:
		return &denial{http.StatusUnauthorized, needs("admin.read_token")}
	}
	denied := checkLocal(r)
	if want == debugging && !g.localProfile {
		denied = &denial{http.StatusForbidden, "a profile needs the value of admin.write_token as a bearer token, or admin.pprof: true for clients on this machine's loopback address"}
	}
	if denied != nil && g.write.set {
		return &denial{http.StatusUnauthorized, needs("admin.write_token")}
	}
	return denied
}

func needs(token string) string {
	return fmt.Sprintf("this needs the header \"Authorization: Bearer ...\" with the value of %s", token)
}

// A denial is the answer to a request that may not have what it asks for.
type denial struct {
	status int
	reason string
}

func (d denial) write(w http.ResponseWriter) {
	if d.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="weir"`)
	}
	http.Error(w, d.reason, d.status)
}

// checkLocal returns nil for a request that a program on this machine sent of its own will.
//
// A loopback address is not enough: a web page may have led a browser on this machine here by a name that it made
// resolve to 127.0.0.1, which the Host header gives away, and a reverse proxy on this machine may speak for anyone.
func checkLocal(r *http.Request) *denial {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !addr.Addr().Unmap().IsLoopback() {
		return &denial{http.StatusForbidden, "without a token only clients on this machine's loopback address are served; set admin.read_token and send it as a bearer token"}
	}
	if !loopbackName(r.Host) {
		return &denial{http.StatusForbidden, fmt.Sprintf("without a token the Host header must be localhost or a loopback address, not %q", r.Host)}
	}
	if r.Header.Get("Forwarded") != "" || r.Header.Get("X-Forwarded-For") != "" {
		return &denial{http.StatusForbidden, "without a token requests forwarded for someone else are refused; set admin.read_token and send it as a bearer token"}
	}
	return nil
}

// loopbackName reports whether a Host header can only mean this machine. HTTP/1.0 has none; browsers always send one.
func loopbackName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "" || host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func bearerToken(r *http.Request) string {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(value)
}

// A token is a secret, kept as its hash so that comparing takes the same time whatever the guess and its length.
type token struct {
	set bool
	sum [sha256.Size]byte
}

func newToken(secret string) token {
	return token{set: secret != "", sum: sha256.Sum256([]byte(secret))}
}

func (t token) is(guess string) bool {
	sum := sha256.Sum256([]byte(guess))
	return subtle.ConstantTimeCompare(t.sum[:], sum[:]) == 1 && t.set
}
