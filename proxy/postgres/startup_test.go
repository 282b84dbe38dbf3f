package postgres_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// packet is a startup packet: a length, a code or version, and a body.
func packet(code uint32, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(binary.BigEndian.AppendUint32(b, code), body...)
}

// withLength is packet with a length that need not be true.
func withLength(length, code uint32, body string) []byte {
	b := packet(code, body)
	binary.BigEndian.PutUint32(b, length)
	return b
}

const (
	v20      = 2 << 16
	v30      = 3 << 16
	v31      = 3<<16 | 1
	v32      = 3<<16 | 2
	v39999   = 3<<16 | 9999
	sslCode  = 80877103
	gssCode  = 80877104
	hello    = "user\x00app\x00database\x00orders\x00\x00" // the body of a good startup packet
	quietEnd = ""                                          // closed without a word
	welcome  = "ready"
)

var (
	askSSL = packet(sslCode, "")
	askGSS = packet(gssCode, "")
	good   = packet(v30, hello)
)

// fill is a good startup packet of n bytes.
func fill(n int) []byte {
	b := packet(v30, "user\x00app\x00database\x00orders\x00application_name\x00\x00\x00")
	name := strings.Repeat("a", n-len(b))
	return packet(v30, "user\x00app\x00database\x00orders\x00application_name\x00"+name+"\x00\x00")
}

// send opens a connection, sends b and returns all that comes back until the weir closes the connection or is ready for a
// query.
func (w *weir) send(tb testing.TB, b []byte) []byte {
	tb.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(pgtest.DefaultTimeout))
	if _, err := conn.Write(b); err != nil {
		tb.Fatal(err)
	}
	return readAll(tb, conn)
}

// readyI is what a login ends with.
var readyI = []byte{'Z', 0, 0, 0, 5, 'I'}

func readAll(tb testing.TB, conn net.Conn) (all []byte) {
	tb.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		all = append(all, buf[:n]...)
		switch {
		case bytes.HasSuffix(all, readyI):
			return all
		case isTimeout(err):
			tb.Fatalf("neither closed nor ready, after %q", all)
		case err != nil && !errors.Is(err, io.EOF):
			tb.Fatalf("%v after %q: the last words may be lost", err, all)
		case err != nil:
			return all
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// outcome is the end of a login in a word: welcome, an SQLSTATE, or quietEnd.
func outcome(tb testing.TB, answer []byte) string {
	tb.Helper()
	if len(answer) == 0 {
		return quietEnd
	}
	if bytes.HasSuffix(answer, readyI) {
		return welcome
	}
	at := bytes.IndexByte(answer, 'E')
	if at < 0 {
		tb.Fatalf("no error in %q", answer)
	}
	var e pgproto3.ErrorResponse
	if err := e.Decode(answer[at+5:]); err != nil {
		tb.Fatalf("%v in %q", err, answer)
	}
	if e.Severity != "FATAL" || e.SeverityUnlocalized != "FATAL" || e.Message == "" {
		tb.Errorf("error with severity %q, %q and message %q", e.Severity, e.SeverityUnlocalized, e.Message)
	}
	return e.Code
}

// Traps 5 and 58: what is not a startup packet gets a proper error, or none where the other side would not understand it. Trap
// 57: who wants replication is told so at once.
func TestStartupPackets(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{})
	tests := map[string]struct {
		send  []byte
		want  string
		count string // in the metrics, as malformed
	}{
		"a good one":                      {good, welcome, ""},
		"the longest":                     {fill(10000), welcome, ""},
		"one byte longer":                 {fill(10001), "08P01", "length"},
		"length 0":                        {withLength(0, v30, hello), "08P01", "length"},
		"length 4":                        {withLength(4, v30, hello), "08P01", "length"},
		"length 7":                        {withLength(7, v30, hello), "08P01", "length"},
		"length 8, which has no user":     {withLength(8, v30, ""), "08P01", "startup"},
		"length 2^31":                     {withLength(1<<31, v30, hello), "08P01", "length"},
		"length 2^32-1":                   {withLength(1<<32-1, v30, hello), "08P01", "length"},
		"no terminator at all":            {packet(v30, "user\x00app"), "08P01", "startup"},
		"no value":                        {packet(v30, "user\x00"), "08P01", "startup"},
		"no last terminator":              {packet(v30, "user\x00app\x00"), "08P01", "startup"},
		"more behind the last terminator": {packet(v30, hello+"more"), "08P01", "startup"},
		"no user":                         {packet(v30, "database\x00orders\x00\x00"), "28000", ""},
		"an empty user":                   {packet(v30, "user\x00\x00database\x00orders\x00\x00"), "28000", ""},
		"nothing":                         {packet(v30, "\x00"), "28000", ""},
		"an unknown database":             {packet(v30, "user\x00app\x00database\x00nosuch\x00\x00"), "3D000", ""},
		"the user's own database":         {packet(v30, "user\x00app\x00\x00"), "3D000", ""},
		"protocol 1.0":                    {packet(1<<16, "x"), "0A000", "version"},
		"protocol 2.0":                    {packet(v20, strings.Repeat("\x00", 288)), "0A000", "version"},
		"protocol 4.0":                    {packet(4<<16, hello), "0A000", "version"},
		"an unknown code":                 {packet(80877105, ""), "0A000", "version"},
		"a cancel request without a key":  {packet(80877102, ""), quietEnd, "cancel"},
		"a cancel request, too short":     {packet(80877102, "pidkey"), quietEnd, "cancel"},
		"a cancel request, too long":      {packet(80877102, "pid_"+strings.Repeat("k", 257)), quietEnd, "cancel"},
		"a cancel request for nobody":     {packet(80877102, "pid_key_"), quietEnd, ""},
		"HTTP GET":                        {[]byte("GET / HTTP/1.1\r\nHost: weir\r\n\r\n"), quietEnd, "http"},
		"HTTP POST":                       {[]byte("POST /query HTTP/1.1\r\n\r\n"), quietEnd, "http"},
		"HTTP/2":                          {[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), quietEnd, "http"},
		"TLS where there is none":         {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), quietEnd, "tls"},
		"SSH":                             {[]byte("SSH-2.0-OpenSSH_9.2p1\r\n"), "08P01", "length"},
		"replication=true":                {packet(v30, "replication\x00true\x00"+hello), "0A000", ""},
		"replication=database":            {packet(v30, "replication\x00database\x00"+hello), "0A000", ""},
		"replication=1":                   {packet(v30, "replication\x001\x00"+hello), "0A000", ""},
		"replication=false":               {packet(v30, "replication\x00false\x00"+hello), welcome, ""},
		"replication=off":                 {packet(v30, "replication\x00off\x00"+hello), welcome, ""},
		"options of another kind":         {packet(v30, "options\x00-W\x00"+hello), "42601", ""},
		"options without a value":         {packet(v30, "options\x00-c geqo\x00"+hello), "42601", ""},
		"options without a name":          {packet(v30, "options\x00-c =1\x00"+hello), "42704", ""},
		"options that end in the middle":  {packet(v30, "options\x00-c\x00"+hello), "42601", ""},
		"what a function says of itself":  {packet(v30, "options\x00-c weir.priority=batch -c weir.deadline=800ms\x00"+hello), welcome, ""},
		"an unknown parameter":            {packet(v30, "nosuch\x00on\x00"+hello), "42704", ""},
		"a parameter with a wrong value":  {packet(v30, "geqo\x00maybe\x00"+hello), "22023", ""},
		"a parameter set at server start": {packet(v30, "port\x001\x00"+hello), "55P02", ""},
		"a timeout set at server start":   {packet(v30, "options\x00-c archive_timeout=7\x00"+hello), "55P02", ""},
		"a parameter of connecting":       {packet(v30, "options\x00-c post-auth-delay=0\x00"+hello), "0A000", ""},
		"another, in capitals":            {packet(v30, "Ignore_System_Indexes\x00on\x00"+hello), "0A000", ""},
		"a value that is not ASCII":       {packet(v30, "search_path\x00caf\xc3\xa9\x00"+hello), "0A000", ""},
		"a name that is not ASCII":        {packet(v30, "caf\xc3\xa9.x\x00y\x00"+hello), "0A000", ""},
		"SSLRequest with a body":          {packet(sslCode, "x"), "08P01", "startup"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := w.Stats().Protocol
			if got := outcome(t, w.send(t, test.send)); got != test.want {
				t.Errorf("ended with %q, want %q", got, test.want)
			}
			after := w.Stats().Protocol
			for kind, n := range after {
				want := before[kind]
				if kind == test.count {
					want++
				}
				if n != want {
					t.Errorf("counted %d of %s, want %d", n-before[kind], kind, want-before[kind])
				}
			}
		})
	}
}

// Trap 2: clients ask for GSSAPI, or for TLS, or for one after the other.
func TestEncryptionRequestsInAnyOrderOnceEach(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{})
	tests := map[string]struct {
		ask  [][]byte
		want string
	}{
		"TLS":             {[][]byte{askSSL}, welcome},
		"GSSAPI":          {[][]byte{askGSS}, welcome},
		"TLS, GSSAPI":     {[][]byte{askSSL, askGSS}, welcome},
		"GSSAPI, TLS":     {[][]byte{askGSS, askSSL}, welcome},
		"TLS twice":       {[][]byte{askSSL, askSSL}, "08P01"},
		"GSSAPI twice":    {[][]byte{askGSS, askGSS}, "08P01"},
		"TLS after both":  {[][]byte{askGSS, askSSL, askGSS}, "08P01"},
		"both, then more": {[][]byte{askSSL, askGSS, askSSL}, "08P01"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			conn := w.dial(t)
			for i, ask := range test.ask {
				_, _ = conn.Write(ask)
				if test.want != welcome && i == len(test.ask)-1 {
					break
				}
				if answer := readByte(t, conn); answer != 'N' {
					t.Fatalf("request %d is answered with %q, want 'N'", i, answer)
				}
			}
			if test.want == welcome {
				_, _ = conn.Write(good)
			}
			if got := outcome(t, readAll(t, conn)); got != test.want {
				t.Errorf("ended with %q, want %q", got, test.want)
			}
		})
	}
}

func (w *weir) dial(tb testing.TB) net.Conn {
	tb.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(pgtest.DefaultTimeout))
	return conn
}

func readByte(tb testing.TB, conn net.Conn) byte {
	tb.Helper()
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		tb.Fatal(err)
	}
	return b[0]
}

// Trap 3: whatever the network does to the packets.
func TestStartupSplitOverSegments(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{tls: certificate(t, "prefer")})
	bytewise := func(conn net.Conn, b []byte) {
		for i := range b { // TCP_NODELAY is on: a segment each
			_, _ = conn.Write(b[i : i+1])
		}
	}
	t.Run("every byte for itself", func(t *testing.T) {
		conn := w.dial(t)
		bytewise(conn, askGSS)
		if got := readByte(t, conn); got != 'N' {
			t.Fatalf("GSSENCRequest is answered with %q", got)
		}
		bytewise(conn, good)
		if got := outcome(t, readAll(t, conn)); got != welcome {
			t.Errorf("ended with %q", got)
		}
	})
	t.Run("at each byte", func(t *testing.T) {
		for at := 1; at < len(good); at++ {
			conn := w.dial(t)
			_, _ = conn.Write(good[:at])
			_, _ = conn.Write(good[at:])
			if got := outcome(t, readAll(t, conn)); got != welcome {
				t.Errorf("split at %d ended with %q", at, got)
			}
			_ = conn.Close()
		}
	})
	t.Run("SSLRequest and TLS records", func(t *testing.T) {
		conn := w.dial(t)
		bytewise(conn, askSSL)
		if got := readByte(t, conn); got != 'S' {
			t.Fatalf("SSLRequest is answered with %q", got)
		}
		secured := tls.Client(&trickle{conn}, &tls.Config{InsecureSkipVerify: true})
		_, _ = secured.Write(good)
		if got := outcome(t, readAll(t, secured)); got != welcome {
			t.Errorf("ended with %q", got)
		}
	})
}

// trickle sends each byte in a segment of its own.
type trickle struct{ net.Conn }

func (c *trickle) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := c.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// Trap 1: what comes behind an encryption request before the answer was put there by someone in the middle.
func TestNothingMayStandBehindAnEncryptionRequest(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for name, options := range map[string]postgres.TLSOptions{"with TLS": certificate(t, "prefer"), "without TLS": {}} {
		t.Run(name, func(t *testing.T) {
			w := start(t, settings{tls: options})
			for behind, stuffing := range map[string][]byte{
				"a startup packet": good,
				"one byte":         {0},
				"a TLS record":     []byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"),
				"another request":  askGSS,
				"a cancel request": packet(80877102, "pid_key_"),
			} {
				for request, ask := range map[string][]byte{"TLS": askSSL, "GSSAPI": askGSS} {
					answer := w.send(t, slices.Concat(ask, stuffing))
					if got := outcome(t, answer); got != "08P01" {
						t.Errorf("%s behind a request for %s ended with %q (%q)", behind, request, got, answer)
					}
				}
			}
			if got := w.Stats().Protocol["stuffing"]; got != 10 {
				t.Errorf("counted %d times, want 10", got)
			}
		})
	}
}

// Trap 4: a client that begins with TLS must say by ALPN what it wants to speak.
func TestDirectTLS(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{tls: certificate(t, "require")})
	tests := map[string]struct {
		protocols []string
		want      string
	}{
		"with ALPN":              {[]string{"postgresql"}, welcome},
		"with more in its ALPN":  {[]string{"h2", "postgresql"}, welcome},
		"without ALPN":           {nil, "08P01"},
		"with ALPN of the web's": {[]string{"h2", "http/1.1"}, "handshake"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			secured := tls.Client(w.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: test.protocols})
			if err := secured.Handshake(); err != nil {
				if test.want != "handshake" {
					t.Fatal(err)
				}
				return
			}
			_, _ = secured.Write(good)
			if got := outcome(t, readAll(t, secured)); got != test.want {
				t.Errorf("ended with %q, want %q", got, test.want)
			}
		})
	}
}

func TestNoEncryptionWithinEncryption(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{tls: certificate(t, "require")})
	for name, ask := range map[string][]byte{"TLS": askSSL, "GSSAPI": askGSS} {
		secured := tls.Client(w.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
		if _, err := secured.Write(ask); err != nil {
			t.Fatal(err)
		}
		if got := outcome(t, readAll(t, secured)); got != "08P01" {
			t.Errorf("a request for %s ended with %q", name, got)
		}
	}
}

// Traps 6, 7 and 8: newer versions and unknown options are negotiated; the key is as long as the version allows.
func TestProtocolVersions(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{})
	tests := map[string]struct {
		version    uint32
		options    []string
		negotiated uint32 // 0: nothing to negotiate
		key        int
	}{
		"3.0":                            {v30, nil, 0, 4},
		"3.1":                            {v31, nil, 0, 4},
		"3.2":                            {v32, nil, 0, 32},
		"3.9999":                         {v39999, nil, v32, 32},
		"3.0 with an unknown option":     {v30, []string{"_pq_.grease"}, v30, 4},
		"3.2 with two unknown options":   {v32, []string{"_pq_.a", "_pq_.b"}, v32, 32},
		"3.9999 with an unknown option":  {v39999, []string{"_pq_.test_protocol_negotiation"}, v32, 32},
		"3.65535 with an unknown option": {3<<16 | 65535, []string{"_pq_."}, v32, 32},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			params := map[string]string{"user": "app", "database": database}
			for _, o := range test.options {
				params[o] = "on"
			}
			c := pgtest.Dial(t, w.addr)
			c.SendStartup(test.version, params)
			messages := c.UntilReady(1)
			if test.negotiated != 0 {
				if messages[0].Type != 'v' {
					t.Fatalf("the first message is %v, want v", messages[0])
				}
				var v pgproto3.NegotiateProtocolVersion
				if err := v.Decode(messages[0].Body); err != nil {
					t.Fatal(err)
				}
				slices.Sort(v.UnrecognizedOptions)
				if v.NewestMinorProtocol != test.negotiated || !slices.Equal(v.UnrecognizedOptions, test.options) {
					t.Errorf("negotiated %d, %q; want %d, %q", v.NewestMinorProtocol, v.UnrecognizedOptions, test.negotiated, test.options)
				}
				messages = messages[1:]
			}
			order := pgtest.Types(messages)
			if want := "R" + strings.Repeat("S", len(order)-3) + "KZ"; order != want || len(order) < 10 {
				t.Errorf("the greeting is %s, want %s", order, want)
			}
			if key := len(messages[len(messages)-2].Body) - 4; key != test.key {
				t.Errorf("the key has %d bytes, want %d", key, test.key)
			}
		})
	}
}

// Traps 9 and 10: what a client asks for at startup is checked by the server, holds in its session, and is reported as the
// server itself reports it.
func TestStartupParameters(t *testing.T) {
	pg := pgtest.Shared(t)
	w := start(t, settings{})
	tests := []struct{ params, show string }{
		{"application_name=checkout", "application_name"},
		{"application_name=''", "application_name"},
		{"application_name='a\x01b\x7fc'", "application_name"},
		{"application_name='caf\u00e9 \u4e16'", "application_name"},
		{"application_name=" + strings.Repeat("x", 200), "application_name"},
		{"search_path='a, b'", "search_path"},
		{`search_path='"$user", "x''; drop table t; --"'`, "search_path"},
		{"datestyle='iso, dmy'", "DateStyle"},
		{"DateStyle='SQL, DMY'", "DateStyle"},
		{"timezone=Europe/Vienna", "TimeZone"},
		{"extra_float_digits=3", "extra_float_digits"},
		{"options='-c geqo=off'", "geqo"},
		{"options='-cgeqo=off'", "geqo"},
		{"options='--geqo=off'", "geqo"},
		{"options='  -c   geqo=off  --statement-timeout=12345 '", "statement_timeout"},
		{`options='-c my.setting=a\\ b\\\\c'`, "my.setting"},
		{`options='-c my.setting=x\\'`, "my.setting"},
		{"options='-c application_name=from-options'", "application_name"},
		{"options='-c my.setting=it''s'", "my.setting"},
		{`options='-c my.setting=''$$'''`, "my.setting"},
		{"client_encoding=LATIN1", "client_encoding"},
		{"search_path=named options='-c search_path=on_the_command_line'", "search_path"},
		{"client_encoding=UTF8 options='-c client_encoding=LATIN1'", "client_encoding"},
		{"options='-c my.setting=1 -c my.setting=2'", "my.setting"},
		{"my.setting=named options='-c my.setting=2'", "my.setting"},
		{"application_name=named options='-c application_name=on_the_command_line'", "application_name"},
	}
	for _, test := range tests {
		t.Run(test.params, func(t *testing.T) {
			params := strings.ReplaceAll(test.params, "''", `\'`)
			if strings.HasSuffix(test.params, "=''") {
				params = test.params
			}
			direct := pgtest.Connect(t, keyword(pg)+" "+params)
			proxied := w.client(params)
			for name, want := range direct.Parameters {
				if got := proxied.Parameters[name]; got != want {
					t.Errorf("%s is reported as %q, the server says %q", name, got, want)
				}
			}
			pgtest.Compare(t, direct.Query("SHOW "+test.show), proxied.Query("SHOW "+test.show))
			again := w.client(params)
			pgtest.Compare(t, direct.Query("SHOW "+test.show), again.Query("SHOW "+test.show))
			for name, want := range direct.Parameters {
				if got := again.Parameters[name]; got != want {
					t.Errorf("from memory %s is reported as %q, the server says %q", name, got, want)
				}
			}
		})
	}
	t.Run("the next client has its own", func(t *testing.T) {
		plain := w.client()
		got := pgtest.Rows(plain.Query("SELECT concat_ws('|', current_setting('search_path'), current_setting('geqo'), current_setting('statement_timeout'), current_setting('my.setting', true))"))
		if want := `"$user", public|on|0|`; len(got) != 1 || strings.TrimSuffix(got[0], "|") != strings.TrimSuffix(want, "|") {
			t.Errorf("settings of others stay behind: %q, want %q", got, want)
		}
	})
}

// keyword is the shared server's connection string in the form that takes more parameters.
func keyword(pg *pgtest.Postgres) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=app user=app password=app-secret sslmode=disable", pg.Port)
}

// Trap 5: a client that never gets through with its startup packet must not hold its place for ever.
func TestLoginTimeout(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const limit = 200 * time.Millisecond
	w := start(t, settings{limits: postgres.Limits{LoginTimeout: limit}, tls: certificate(t, "prefer"), method: "scram-sha-256", users: map[string]string{"app": "secret"}})
	tests := map[string]struct {
		begin func(t *testing.T, conn net.Conn) net.Conn
		want  string
	}{
		"says nothing":        {func(_ *testing.T, c net.Conn) net.Conn { return c }, "57014"},
		"sends half a packet": {func(_ *testing.T, c net.Conn) net.Conn { _, _ = c.Write(good[:11]); return c }, "57014"},
		"sends half a length": {func(_ *testing.T, c net.Conn) net.Conn { _, _ = c.Write(good[:2]); return c }, "57014"},
		"stops after GSSAPI":  {func(t *testing.T, c net.Conn) net.Conn { _, _ = c.Write(askGSS); readByte(t, c); return c }, "57014"},
		"stops before TLS":    {func(t *testing.T, c net.Conn) net.Conn { _, _ = c.Write(askSSL); readByte(t, c); return c }, quietEnd},
		"stops within TLS":    {func(_ *testing.T, c net.Conn) net.Conn { _, _ = c.Write([]byte("\x16\x03\x01\x02\x00\x01")); return c }, quietEnd},
		"sends no password":   {func(_ *testing.T, c net.Conn) net.Conn { _, _ = c.Write(good); return c }, "57014"},
		"sends half a password": {func(_ *testing.T, c net.Conn) net.Conn {
			_, _ = c.Write(slices.Concat(good, []byte("p\x00\x00\x00\x20SC")))
			return c
		}, "57014"},
		"stops behind TLS": {func(t *testing.T, c net.Conn) net.Conn {
			secured := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
			if err := secured.Handshake(); err != nil {
				t.Error(err)
			}
			return secured
		}, "57014"},
		"sends a byte now and then": {func(_ *testing.T, c net.Conn) net.Conn {
			go func() {
				for _, b := range good {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(limit / 10)
				}
			}()
			return c
		}, "57014"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			answer := readAll(t, test.begin(t, w.dial(t)))
			if at := bytes.IndexByte(answer, 'R'); at >= 0 { // what it was asked for its password
				answer = answer[at+1+int(binary.BigEndian.Uint32(answer[at+1:])):]
			}
			if got := outcome(t, answer); got != test.want {
				t.Errorf("ended with %q, want %q", got, test.want)
			}
			if took := time.Since(began); took < limit || took > 10*limit {
				t.Errorf("ended after %v, want %v", took, limit)
			}
		})
	}
	w.eventually("no login is under way", func() bool { return w.Stats().Clients["login"] == 0 })
	if w.Stats().Protocol["timeout"] == 0 {
		t.Error("no timeout was counted")
	}
}

// What a client has sent behind its startup packet is not lost on the way to the event loop.
func TestAQueryRightBehindTheStartupPacket(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{})
	c := pgtest.Dial(t, w.addr)
	c.SendBytes(slices.Concat(good, pgtest.Encode(&pgproto3.Query{String: "SELECT 42"}), pgtest.Encode(&pgproto3.Query{String: "SELECT 43"})[:9]))
	c.UntilReady(1)
	if got := pgtest.Rows(c.UntilReady(1)); len(got) != 1 || got[0] != "42" {
		t.Errorf("answered %q", got)
	}
	c.SendBytes(pgtest.Encode(&pgproto3.Query{String: "SELECT 43"})[9:])
	if got := pgtest.Rows(c.UntilReady(1)); len(got) != 1 || got[0] != "43" {
		t.Errorf("answered %q", got)
	}
}

// anyone is a weir in front of a fake server, for fuzzing: nothing that a client sends gets further than the login.
func anyone(f *testing.F, options postgres.TLSOptions) *weir {
	fake := pgtest.Script{pgtest.AcceptStartup(), answerAnything}.Serve(f)
	return start(f, settings{upstream: fake.DSN(), tls: options, limits: postgres.Limits{LoginTimeout: 5 * time.Second}})
}

// answerAnything is a server that is content with every message.
func answerAnything(c *pgtest.ServerConn) error {
	for {
		m, err := c.Receive()
		switch {
		case err != nil || m.Type == 'X':
			return nil
		case m.Type == 'Q' || m.Type == 'F':
			_, err = c.Write(pgtest.Reply(1))
		case m.Type == 'P':
			err = c.Send(&pgproto3.ParseComplete{})
		case m.Type == 'C':
			err = c.Send(&pgproto3.CloseComplete{})
		case m.Type == 'S':
			err = c.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
		if err != nil {
			return nil
		}
	}
}

// FuzzStartup sends bytes from the moment of accept on, and then the end of the stream. Whatever they are, the connection
// ends in time and leaves nothing behind.
func FuzzStartup(f *testing.F) {
	plain, secured := anyone(f, postgres.TLSOptions{}), anyone(f, certificate(f, "prefer"))
	warm := plain.send(f, good)
	secured.send(f, good)
	if outcome(f, warm) != welcome {
		f.Fatalf("not let in: %q", warm)
	}
	for _, seed := range [][]byte{
		nil, good, good[:9], askSSL, askGSS, slices.Concat(askGSS, askSSL, good), slices.Concat(askSSL, good), fill(10000), fill(10001),
		packet(v32, hello), packet(v39999, "_pq_.x\x00y\x00"+hello), packet(v20, hello), packet(80877102, "pid_key_"),
		packet(v30, "options\x00-c geqo=off --work-mem=1MB -csearch_path=a\\ b\x00"+hello), packet(v30, "replication\x00database\x00"+hello),
		withLength(0, v30, hello), withLength(1<<31, v30, hello), []byte("GET / HTTP/1.1\r\n\r\n"),
		[]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), slices.Concat(good, pgtest.Encode(&pgproto3.Query{String: "SELECT 1"})),
		slices.Concat(good, []byte("X\x00\x00\x00\x04")), slices.Concat(good, []byte("Q\xff\xff\xff\xff")),
		clientHello(f),
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	goroutines := runtime.NumGoroutine()
	f.Fuzz(func(t *testing.T, data []byte, withTLS bool) {
		w := plain
		if withTLS {
			w = secured
		}
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(pgtest.DefaultTimeout))
		_, _ = conn.Write(data)
		_ = conn.(*net.TCPConn).CloseWrite()
		began := time.Now()
		_, _ = io.Copy(io.Discard, conn)
		if took := time.Since(began); took > 4*time.Second {
			t.Fatalf("the connection stayed open for %v; %v", took, w.Stats().Clients)
		}
		left := func() bool {
			c := w.Stats().Clients
			return c["login"] == 0 && c["idle"]+c["waiting"]+c["active"] == 0
		}
		for deadline := time.Now().Add(5 * time.Second); !left(); time.Sleep(100 * time.Microsecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the client is gone, but there are %v", w.Stats().Clients)
			}
		}
		if n := runtime.NumGoroutine(); n > goroutines+50 {
			t.Fatalf("%d goroutines, at first %d", n, goroutines)
		}
	})
}

// clientHello is the beginning of a real handshake.
func clientHello(tb testing.TB) []byte {
	tb.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		_ = tls.Client(far, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}}).Handshake()
		_ = far.Close()
	}()
	buf := make([]byte, 4096)
	n, err := near.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	return buf[:n]
}
