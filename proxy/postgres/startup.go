package postgres

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/pgwire"
	"github.com/weirproxy/weir/pool"
	"github.com/weirproxy/weir/proxy"
)

// Codes in the place of a protocol version (manual, "Message Formats").
const (
	sslRequest    = 80877103
	gssRequest    = 80877104
	cancelRequest = 80877102
	version30     = 3 << 16
	version32     = 3<<16 | 2
)

const (
	maxStartup   = 10000 // MAX_STARTUP_PACKET_LENGTH of PostgreSQL
	minStartup   = 8
	maxCancelKey = 256
	tlsHandshake = 0x16 // first byte of a TLS record that begins a handshake
	alpn         = "postgresql"
)

// errQuiet ends a login without a word: the other side is no PostgreSQL client, or has gone.
var errQuiet = errors.New("not a client")

// startup is what a client says of itself before it is asked who it is.
type startup struct {
	version  uint32 // the one both speak
	user     string
	database string
	options  string         // the server's command line
	named    []pool.Setting // parameters with a name of their own
	settings []pool.Setting // what comes of both
	unknown  []string       // protocol options that we do not know
	asked    uint32         // the version asked for
	terms    limiter.Terms
	ignored  []error // what it said of itself that makes no sense

	walsender bool // it wants a replication connection,
	logical   bool // to a database: it may ask for changes, and for anything in SQL
}

// greet reads packets until one is a startup packet, setting up TLS when asked to. A nil startup with no error is a
// cancel request that has been dealt with.
func (l *login) greet() (*startup, error) {
	if err := l.maybeDirectTLS(); err != nil {
		return nil, err
	}
	var sslAsked, gssAsked bool
	for {
		packet, err := l.packet()
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(packet); code {
		case sslRequest, gssRequest:
			asked := &sslAsked
			if code == gssRequest {
				asked = &gssAsked
			}
			if len(packet) != 4 || *asked || l.secure != nil {
				return nil, l.malformed("startup", "invalid length of startup packet")
			}
			*asked = true
			if err := l.answerEncryption(code == sslRequest); err != nil {
				return nil, err
			}
		case cancelRequest:
			l.srv.cancelSession(l.fiber, &l.guest, packet[4:])
			return nil, nil
		default:
			return l.parameters(code, packet[4:])
		}
	}
}

// maybeDirectTLS recognises a client that begins with TLS instead of asking for it (sslnegotiation=direct).
func (l *login) maybeDirectTLS() error {
	if err := l.need(1); err != nil {
		return err
	}
	if l.in[0] != tlsHandshake {
		return nil
	}
	if l.srv.tls.Load() == nil {
		l.srv.protocol.Add("tls", 1)
		return errQuiet
	}
	if err := l.startTLS(); err != nil {
		return err
	}
	if l.tls.ConnectionState().NegotiatedProtocol != alpn {
		l.srv.protocol.Add("tls", 1)
		return &pgwire.Error{Code: proxy.Protocol.SQLSTATE, Message: "direct TLS connection without ALPN protocol \"postgresql\""}
	}
	return nil
}

// packet reads one startup packet: a length that counts itself, and what follows it.
func (l *login) packet() ([]byte, error) {
	if err := l.need(4); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(l.in))
	if n < minStartup || n > maxStartup {
		return nil, l.oddLength()
	}
	if err := l.need(n); err != nil {
		return nil, err
	}
	return l.next(n)[4:], nil
}

// oddLength tells HTTP from other garbage.
func (l *login) oddLength() error {
	for _, method := range []string{"GET ", "POST", "HEAD", "PUT ", "OPTI", "PRI "} {
		if string(l.in[:4]) == method {
			l.srv.protocol.Add("http", 1)
			return errQuiet
		}
	}
	return l.malformed("length", "invalid length of startup packet")
}

// answerEncryption answers a request for TLS or GSSAPI encryption. Whatever came behind the request without waiting for
// the answer would have been sent in the clear by someone who wanted it to look encrypted (CVE-2021-23214).
func (l *login) answerEncryption(wantTLS bool) error {
	if len(l.in) > 0 {
		return l.malformed("stuffing", "received unencrypted data after encryption request")
	}
	if !wantTLS || l.srv.tls.Load() == nil {
		_, err := l.conn.Write([]byte{'N'})
		return err
	}
	if _, err := l.conn.Write([]byte{'S'}); err != nil {
		return err
	}
	return l.startTLS()
}

// startTLS does the server's side of a handshake. What has been read already is its beginning.
func (l *login) startTLS() error {
	t := l.srv.tls.Load()
	under := l.conn
	if len(l.in) > 0 {
		under = &unread{l.conn, slices.Clone(l.in)}
		l.in = l.in[:0]
	}
	l.secure = eventloop.NewSecure(&attentive{under, &l.guest})
	l.tls = tls.Server(l.secure, t.config)
	l.guest.says(saidHello)
	_ = l.socket.SetDeadline(earlier(time.Now().Add(handshakeTime), l.deadline()))
	if err := l.tls.Handshake(); err != nil {
		l.srv.protocol.Add("tls", 1)
		return errQuiet // crypto/tls has sent its alert
	}
	l.guest.says(saidHello)
	_ = l.socket.SetDeadline(l.deadline())
	l.conn, l.binding = l.tls, t.binding
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// unread is a connection of which something has been read already.
type unread struct {
	net.Conn
	b []byte
}

func (u *unread) Read(p []byte) (int, error) {
	if len(u.b) == 0 {
		return u.Conn.Read(p)
	}
	n := copy(p, u.b)
	u.b = u.b[n:]
	return n, nil
}

// parameters reads the rest of a startup packet.
func (l *login) parameters(version uint32, body []byte) (*startup, error) {
	if version>>16 != 3 {
		l.srv.protocol.Add("version", 1)
		return nil, &pgwire.Error{
			Code:    "0A000",
			Message: fmt.Sprintf("unsupported frontend protocol %d.%d: server supports 3.0 to 3.2", version>>16, version&0xffff),
		}
	}
	st := &startup{asked: version, version: min(version, version32)}
	for len(body) > 0 && body[0] != 0 {
		name, rest, ok := pgwire.CString(body)
		if ok {
			var value []byte
			if value, rest, ok = pgwire.CString(rest); ok {
				if err := st.parameter(string(name), string(value)); err != nil {
					return nil, err
				}
			}
		}
		if !ok {
			return nil, l.malformed("startup", "invalid startup packet layout: expected terminator as last byte")
		}
		body = rest
	}
	if len(body) != 1 {
		return nil, l.malformed("startup", "invalid startup packet layout: expected terminator as last byte")
	}
	if st.user == "" {
		return nil, &pgwire.Error{Code: "28000", Message: "no PostgreSQL user name specified in startup packet"}
	}
	if st.database == "" {
		st.database = st.user
	}
	if err := st.takeSettings(); err != nil {
		return nil, err
	}
	if err := st.checkWhen(); err != nil {
		return nil, err
	}
	return st, st.checkEncoding()
}

// parameter takes one parameter of the startup packet.
func (st *startup) parameter(name, value string) error {
	switch {
	case name == "user":
		st.user = value
	case name == "database":
		st.database = value
	case name == "replication":
		return st.replication(value)
	case name == "options":
		st.options = value
	case strings.HasPrefix(name, "_pq_."):
		st.unknown = append(st.unknown, name)
	case name == "application_name":
		st.named = append(st.named, pool.Setting{Name: name, Value: cleanName(value)})
	default:
		st.named = append(st.named, pool.Setting{Name: name, Value: value})
	}
	return nil
}

// takeSettings takes in what was asked for as PostgreSQL does (process_startup_options): the command line first, then the others,
// whatever their order in the packet.
func (st *startup) takeSettings() error {
	if err := st.takeOptions(); err != nil {
		return err
	}
	for _, s := range st.named {
		st.set(s.Name, s.Value)
	}
	return nil
}

// set takes in a run-time parameter: the server's, or what the function says of itself.
func (st *startup) set(name, value string) {
	if own, ours := strings.CutPrefix(strings.ToLower(name), ownParameters); ours {
		if err := st.terms.Set(own, value); err != nil && len(st.ignored) < mostIgnored {
			st.ignored = append(st.ignored, err)
		}
		return
	}
	st.settings = append(st.settings, pool.Setting{Name: name, Value: value})
}

// cleanName does to an application_name what the server does: what is not printable ASCII becomes '?', and it is cut at
// 63 bytes.
func cleanName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < 32 || c > 126 {
			b[i] = '?'
		}
	}
	return string(b[:min(len(b), 63)])
}

// noParameters are what a startup packet has beside run-time parameters: on the command line they mean nothing, and must not become part
// of a startup packet of ours.
var noParameters = []string{"", "user", "database", "replication", "options"}

// takeOptions reads the server's command-line options that a client may give: -c name=value and --name=value.
func (st *startup) takeOptions() error {
	words := splitOptions(st.options)
	for i := 0; i < len(words); i++ {
		word := words[i]
		var setting string
		if word == "--" && i == len(words)-1 { // the end of the options, for getopt
			break
		}
		switch {
		case word == "-c" && i+1 < len(words):
			i++
			setting = words[i]
		case strings.HasPrefix(word, "-c"):
			setting = word[2:]
		case strings.HasPrefix(word, "--"):
			setting = word[2:]
		}
		name, v, ok := strings.Cut(setting, "=")
		if !ok {
			return &pgwire.Error{
				Code: "42601", Message: fmt.Sprintf("invalid command-line argument for server process: %s", word),
				Hint: "expected -c name=value or --name=value",
			}
		}
		if slices.Contains(noParameters, name) {
			return &pgwire.Error{Code: "42704", Message: fmt.Sprintf("unrecognized configuration parameter %q", name)}
		}
		name = strings.ReplaceAll(name, "-", "_")
		st.set(name, v)
	}
	return nil
}

// splitOptions splits at blanks; a backslash takes the next character as it is (pg_split_opts).
func splitOptions(s string) (words []string) {
	var word strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\': // at the end it takes nothing
			if i++; i < len(s) {
				word.WriteByte(s[i])
			}
			in = true
		case c == ' ' || c >= '\t' && c <= '\r':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

// onlyAtStart are the parameters of PostgreSQL that hold for a connection from its start or not at all (pg_settings.context: backend and
// superuser-backend).
var onlyAtStart = []string{
	"ignore_system_indexes", "jit_debugging_support", "jit_profiling_support", "log_connections", "log_disconnections", "post_auth_delay",
}

// checkWhen refuses them: a server connection has started long before a session gets it, but for those of replication.
func (st *startup) checkWhen() error {
	for _, s := range st.settings {
		if !st.walsender && slices.Contains(onlyAtStart, strings.ToLower(s.Name)) {
			return &pgwire.Error{
				Code: proxy.NotSupported.SQLSTATE, Message: fmt.Sprintf("parameter %q can only be set when a connection to the server starts, and sessions share those", cleanName(s.Name)),
				Hint: "set it for weir's user, by ALTER ROLE, or in the upstream",
			}
		}
	}
	return nil
}

// checkEncoding refuses values that could read differently in another encoding. They are sent to the server in quotes, and
// in some encodings the second byte of a character looks like a quote.
func (st *startup) checkEncoding() error {
	for _, s := range st.settings {
		if !isASCII(s.Name) || !isASCII(s.Value) {
			return &pgwire.Error{
				Code: proxy.NotSupported.SQLSTATE, Message: fmt.Sprintf("parameter %q: only ASCII is supported at startup", cleanName(s.Name)),
				Hint: "SET it after connecting",
			}
		}
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// malformed counts garbage, and returns the error to be said.
func (l *login) malformed(kind, what string) error {
	l.srv.protocol.Add(kind, 1)
	return &pgwire.Error{Code: proxy.Protocol.SQLSTATE, Message: what}
}

// cancelSession deals with a cancel request. There is never an answer to it.
func (s *Server) cancelSession(f *eventloop.Fiber, g *guest, body []byte) {
	if len(body) < 4+shortSecret || len(body) > 4+maxCancelKey {
		s.protocol.Add("cancel", 1)
		return
	}
	if meant := s.sessions.find(binary.BigEndian.Uint32(body), body[4:]); meant != nil {
		g.says(busy)
		f.Await(meant.cancel)
	}
}
