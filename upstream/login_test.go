package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/pgserver"
	"github.com/weirproxy/weir/internal/pgtest"
)

// impostor answers in the place of a database, with TLS if it has a certificate. It tells the first byte of what a client says
// when it was asked for its password, or nothing for a client that has hung up.
type impostor struct {
	net.Listener
	ask    []byte // in pieces of one byte
	rounds int    // of SCRAM, of which the second message counts then
	cert   *tls.Certificate
	said   chan string
}

func newImpostor(t *testing.T, network, address string, ask []byte, rounds int, cert *tls.Certificate) *impostor {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{l, ask, rounds, cert, make(chan string, 10)}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go i.serve(done)
	return i
}

func (i *impostor) serve(done chan<- struct{}) {
	defer close(done)
	for {
		conn, err := i.Accept()
		if err != nil {
			return
		}
		i.said <- i.meet(conn)
		_ = conn.Close()
	}
}

func (i *impostor) meet(conn net.Conn) string {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	packet := func(conn net.Conn) []byte {
		head := make([]byte, 4)
		if _, err := io.ReadFull(conn, head); err != nil {
			return nil
		}
		body := make([]byte, int(head[2])<<8|int(head[3])-4)
		_, _ = io.ReadFull(conn, body)
		return body
	}
	if first := packet(conn); len(first) == 4 { // SSLRequest
		if i.cert == nil {
			_, _ = conn.Write([]byte{'N'})
		} else {
			_, _ = conn.Write([]byte{'S'})
			conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*i.cert}})
		}
		if packet(conn) == nil {
			return ""
		}
	}
	for _, b := range i.ask {
		_, _ = conn.Write([]byte{b})
	}
	if i.rounds > 0 {
		head := make([]byte, 5)
		_, _ = io.ReadFull(conn, head)
		first := make([]byte, max(0, int(head[3])<<8+int(head[4])-4))
		_, _ = io.ReadFull(conn, first)
		_, nonce, _ := strings.Cut(string(first), ",r=")
		challenge := fmt.Sprintf("r=%sours,s=c2FsdHNhbHQ=,i=%d", nonce, i.rounds)
		for _, b := range append([]byte{'R', 0, 0, 0, byte(8 + len(challenge)), 0, 0, 0, 11}, challenge...) {
			_, _ = conn.Write([]byte{b})
		}
	}
	var answer [1]byte
	_, _ = io.ReadFull(conn, answer[:])
	return strings.Trim(string(answer[:]), "\x00")
}

// What a server can ask for.
var (
	askPassword = []byte("R\x00\x00\x00\x08\x00\x00\x00\x03")
	askMD5      = []byte("R\x00\x00\x00\x0c\x00\x00\x00\x05salt")
	askSCRAM    = []byte("R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")
	// A message of another kind first, which protocol 3.2 has.
	askPasswordLater = append([]byte("v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00"), askPassword...)
)

// The table in secure.go.
func TestWhatIsShownToWhoeverAnswers(t *testing.T) {
	none(t)
	authority, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Certificate(certs.Request{CommonName: "localhost", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	const plain, encrypted, socket = "without TLS", "with TLS", "by a Unix socket"
	tests := []struct {
		how, query                string
		password, md5, scram, few bool
	}{
		{plain, "", false, false, true, false},
		{plain, "sslmode=disable", false, true, true, true},
		{plain, "sslmode=prefer", false, false, true, false},
		{plain, "sslmode=allow", false, false, true, false},
		{plain, "sslmode=require", false, false, false, false},
		{plain, "require_auth=password", true, false, false, false},
		{plain, "require_auth=md5", false, true, false, false},
		{plain, "sslmode=disable&require_auth=md5,password", true, true, false, false},
		{plain, "sslmode=disable&require_auth=!md5", true, false, true, true},
		{encrypted, "", false, false, true, false},
		{encrypted, "sslmode=prefer", false, false, true, false},
		{encrypted, "sslmode=require", true, true, true, true},
		{encrypted, "sslmode=verify-full&sslrootcert=" + root, true, true, true, true},
		{encrypted, "sslmode=verify-ca&sslrootcert=" + root, true, true, true, true},
		{encrypted, "sslmode=disable", false, true, true, true},
		{encrypted, "require_auth=scram-sha-256", false, false, true, true},
		{socket, "", true, true, true, true},
	}
	for _, test := range tests {
		for asked, ask := range map[string]struct {
			message []byte
			want    bool
			rounds  int
		}{
			"password":                  {askPassword, test.password, 0},
			"password later":            {askPasswordLater, test.password, 0},
			"md5":                       {askMD5, test.md5, 0},
			"scram-sha-256":             {askSCRAM, test.scram, 0},
			"password when all is well": {append([]byte("R\x00\x00\x00\x08\x00\x00\x00\x00"), askPassword...), false, 0},
			"md5 when all is well":      {append([]byte("R\x00\x00\x00\x08\x00\x00\x00\x00"), askMD5...), false, 0},
			"password behind much":      {append([]byte("S\x00\x00\x01\x03a\x00"+strings.Repeat("x", 252)+"\x00"), askPassword...), test.password, 0},
			"SCRAM with many rounds":    {askSCRAM, test.scram, 4096},
			"SCRAM with few rounds":     {askSCRAM, test.few, 4095},
		} {
			t.Run(test.how+"/"+test.query+"/"+asked, func(t *testing.T) {
				network, address := "tcp", "127.0.0.1:0"
				dir := t.TempDir()
				if test.how == socket {
					network, address = "unix", filepath.Join(dir, ".s.PGSQL.5432")
				}
				var certificate *tls.Certificate
				if test.how == encrypted {
					certificate = &cert
				}
				there := newImpostor(t, network, address, ask.message, ask.rounds, certificate)
				text := "postgres://app:" + secret + "@" + there.Addr().String() + "/orders?" + test.query
				if test.how == socket {
					text = "host=" + dir + " user=app password=" + secret
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := parse(t, text).Connect(ctx)
				if err == nil {
					t.Fatal("logged in")
				}
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows the password: %v", err)
				}
				got := ""
				for got == "" {
					select {
					case got = <-there.said:
						continue
					case <-time.After(50 * time.Millisecond): // the error came first: what was sent is on its way
					}
					break
				}
				if want := ask.want; (got == "p") != want {
					t.Errorf("sent %q, want an answer: %v; error %v", got, want, err)
				}
			})
		}
	}
}

// A host of another machine is told by its name; here it is this one.
func TestNothingIsSaidToAHostWithoutTLS(t *testing.T) {
	none(t)
	there := newImpostor(t, "tcp", "127.0.0.1:0", askSCRAM, 0, nil)
	_, port, _ := net.SplitHostPort(there.Addr().String())
	c := parse(t, "postgres://app:"+secret+"@db.example:"+port+"/orders").Config()
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	u := parse(t, "postgres://app:"+secret+"@db.example:"+port+"/orders")
	_, err := pgconn.ConnectConfig(t.Context(), c)
	err = u.Explain(err)
	if got := <-there.said; got != "" {
		t.Errorf("said %q", got)
	}
	if err == nil || !strings.Contains(err.Error(), "expected a server that speaks TLS, or sslmode=disable") {
		t.Errorf("got %v", err)
	}
}

// What users of a real server need.
func TestLoginsAtPostgreSQL(t *testing.T) {
	none(t)
	pg := pgtest.Shared(t)
	root := filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, pg.Authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		user  pgserver.User
		query string
		want  string // of the error
	}{
		"SCRAM, nothing said":             {pgserver.App, "", ""},
		"SCRAM in clear":                  {pgserver.App, "sslmode=disable", ""},
		"SCRAM, verified":                 {pgserver.App, "sslmode=verify-full&sslrootcert=" + root, ""},
		"an md5 hash, nothing said":       {pgserver.Legacy, "", "asks for an md5 hash"},
		"an md5 hash in clear":            {pgserver.Legacy, "sslmode=disable", ""},
		"an md5 hash, verified":           {pgserver.Legacy, "sslmode=verify-full&sslrootcert=" + root, ""},
		"a password, nothing said":        {pgserver.Plain, "", "asks for the password itself"},
		"a password in clear":             {pgserver.Plain, "sslmode=disable", "asks for the password itself"},
		"a password in clear, as decided": {pgserver.Plain, "sslmode=disable&require_auth=password", ""},
		"a password, any certificate":     {pgserver.Plain, "sslmode=require", ""},
		"a password, verified":            {pgserver.Plain, "sslmode=verify-full&sslrootcert=" + root, ""},
		"nothing asked":                   {pgserver.Open, "", ""},
		"keywords of libpq":               {pgserver.App, "keepalives=1&keepalives_idle=30&tcp_user_timeout=5000&gssencmode=prefer&client_encoding=auto&fallback_application_name=x&ssl_min_protocol_version=TLSv1.2&krbsrvname=postgres&load_balance_hosts=random&sslcompression=0&hostaddr=127.0.0.1", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := strings.TrimSuffix(pg.DSNFor(test.user), "sslmode=disable") + test.query
			conn, err := parse(t, text).Connect(t.Context())
			if conn != nil {
				_ = conn.Close(context.Background())
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// PostgreSQL keeps the prepared form (RFC 4013) of a password, of which any form will do.
func TestPasswordsThatSCRAMPrepares(t *testing.T) {
	none(t)
	pg := pgtest.Start(t, pgtest.Config{Users: []pgtest.User{{Name: "prepared", Password: "later"}}})
	dsn := func(password string) string {
		return fmt.Sprintf("host=127.0.0.1 port=%d dbname=app user=prepared sslmode=disable password='%s'", pg.Port, password)
	}
	for what, password := range map[string]string{
		"ASCII":                   "plain",
		"a ligature":              "e\ufb03cient",
		"a soft hyphen":           "soft\u00adhyphen",
		"a blank that is another": "no\u00a0break\u3000here",
		"a zero width joiner":     "zero\u200dwidth",
		"a wide letter":           "\uff37ide",
		"a composed letter":       "caf\u00e9",
		"a decomposed letter":     "cafe\u0301",
		"a Roman numeral":         "\u2168",
		"a feminine ordinal":      "\u00aa",
		"all mapped to nothing":   "\u00ad\u200d",
		"a letter from right":     "\u0627\u0628",
		"both directions":         "\u0627a",
		"a private letter":        "\ue000\u00a0x",
		"a new letter":            "\u20bf\u00a0x",
		"an emoji":                "\U0001f600",
	} {
		set := "SET password_encryption = 'scram-sha-256'; ALTER ROLE prepared PASSWORD '" + password + "'"
		if err := pg.Exec(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		conn, err := parse(t, dsn(password)).Connect(t.Context())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		_ = conn.Close(context.Background())
	}
	if _, err := parse(t, dsn("wrong")).Connect(t.Context()); err == nil {
		t.Error("a wrong password is none")
	} else if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
		t.Errorf("a wrong password is %v", err)
	}
}
