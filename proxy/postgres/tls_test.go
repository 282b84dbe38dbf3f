package postgres_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// authority signs certificates.
func authority(tb testing.TB) *certs.Authority {
	tb.Helper()
	a, err := certs.NewAuthority("weir test")
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// certificate makes a certificate for 127.0.0.1.
func certificate(tb testing.TB, mode string) postgres.TLSOptions {
	tb.Helper()
	return issue(tb, authority(tb), mode, false)
}

// issue writes a certificate of an authority, and the authority's own for those who ask clients for theirs, into a new directory.
func issue(tb testing.TB, a *certs.Authority, mode string, rsa bool) postgres.TLSOptions {
	tb.Helper()
	certPEM, keyPEM, err := a.Issue(certs.Request{CommonName: "weir", Hosts: []string{"127.0.0.1", "localhost"}, RSA: rsa})
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	return postgres.TLSOptions{
		Mode: mode, CertFile: write(tb, dir, "server.crt", certPEM), KeyFile: write(tb, dir, "server.key", keyPEM),
		ClientCAFile: write(tb, dir, "ca.crt", a.PEM),
	}
}

func write(tb testing.TB, dir, name string, b []byte) (path string) {
	tb.Helper()
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// clientCertificate writes a client's certificate and returns the connection parameters that use it.
func clientCertificate(tb testing.TB, a *certs.Authority, user string) string {
	tb.Helper()
	certPEM, keyPEM, err := a.Issue(certs.Request{CommonName: user})
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	return fmt.Sprintf("sslcert=%s sslkey=%s", write(tb, dir, "client.crt", certPEM), write(tb, dir, "client.key", keyPEM))
}

// tryPgconn logs in with pgx's connection and asks one question.
func (w *weir) tryPgconn(tb testing.TB, params ...string) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), pgtest.DefaultTimeout)
	defer cancel()
	conn, err := pgconn.Connect(ctx, w.dsn(params...))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
	return err
}

func sqlstate(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

func TestTLSModes(t *testing.T) {
	pgtest.Shared(t)
	a, stranger := authority(t), authority(t)
	root := "sslrootcert=" + write(t, t.TempDir(), "root.crt", a.PEM)
	foreign := "sslrootcert=" + write(t, t.TempDir(), "root.crt", stranger.PEM)
	own, others, forged := clientCertificate(t, a, "app"), clientCertificate(t, a, "someone"), clientCertificate(t, stranger, "app")
	const in, out = "in", "out" // out without an SQLSTATE: the handshake fails
	tests := []struct{ mode, client, want string }{
		{"disable", "sslmode=disable", in},
		{"disable", "sslmode=prefer", in},
		{"disable", "sslmode=require", out},
		{"prefer", "sslmode=disable", in},
		{"prefer", "sslmode=prefer", in},
		{"prefer", "sslmode=require", in},
		{"prefer", "sslmode=verify-ca " + root, in},
		{"prefer", "sslmode=verify-full " + root, in},
		{"prefer", "sslmode=verify-full " + foreign, out},
		{"require", "sslmode=disable", "28000"},
		{"require", "sslmode=require", in},
		{"require", "sslmode=verify-full " + root, in},
		{"require", "sslmode=require sslnegotiation=direct", in},
		{"verify-ca", "sslmode=disable", "28000"},
		{"verify-ca", "sslmode=require", out},
		{"verify-ca", "sslmode=require " + forged, out},
		{"verify-ca", "sslmode=require " + own, in},
		{"verify-ca", "sslmode=require " + others, in},
		{"verify-full", "sslmode=disable", "28000"},
		{"verify-full", "sslmode=require", out},
		{"verify-full", "sslmode=require " + forged, out},
		{"verify-full", "sslmode=require " + own, in},
		{"verify-full", "sslmode=require " + others, "28000"},
	}
	for _, rsa := range []bool{false, true} {
		weirs := map[string]*weir{}
		for _, test := range tests {
			if weirs[test.mode] == nil {
				weirs[test.mode] = start(t, settings{tls: issue(t, a, test.mode, rsa)})
			}
			client, _, _ := strings.Cut(test.client, "/")
			t.Run(fmt.Sprintf("rsa=%v/%s/%s", rsa, test.mode, client), func(t *testing.T) {
				err := weirs[test.mode].tryPgconn(t, test.client)
				switch {
				case test.want == in && err != nil:
					t.Errorf("refused: %v", err)
				case test.want != in && err == nil:
					t.Error("let in")
				case test.want != in && test.want != out && sqlstate(err) != test.want:
					t.Errorf("refused with %v, want %s", err, test.want)
				}
			})
		}
	}
}

func TestTLSBefore12IsRefused(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{tls: certificate(t, "prefer")})
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn := w.dial(t)
		_, _ = conn.Write(askSSL)
		if answer := readByte(t, conn); answer != 'S' {
			t.Fatalf("SSLRequest is answered with %q", answer)
		}
		err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version}).Handshake()
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

// Clients that are connected keep the certificate they know; new ones get the new one.
func TestReloadOfACertificate(t *testing.T) {
	pgtest.Shared(t)
	first, second := authority(t), authority(t)
	options := issue(t, first, "require", false)
	w := start(t, settings{tls: options})
	rootOf := func(a *certs.Authority) string {
		return "sslmode=verify-full sslrootcert=" + write(t, t.TempDir(), "root.crt", a.PEM)
	}
	old := w.pgconn(rootOf(first))

	renewed := issue(t, second, "require", true)
	if err := w.reload(postgres.TLSOptions{Mode: "require", CertFile: renewed.CertFile, KeyFile: options.KeyFile}); err == nil {
		t.Error("took a key that is not the certificate's")
	}
	if err := w.tryPgconn(t, rootOf(first)); err != nil {
		t.Errorf("after a failed reload: %v", err)
	}
	if err := w.reload(renewed); err != nil {
		t.Fatal(err)
	}
	if err := w.tryPgconn(t, rootOf(first)); err == nil {
		t.Error("the old certificate is still shown")
	}
	if err := w.tryPgconn(t, rootOf(second)); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	if _, err := old.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Errorf("the client that was connected: %v", err)
	}
}

// A reload may change what a login takes: TLS for everyone, and back.
func TestTLSIsSwitchedByAReload(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for _, first := range []postgres.TLSOptions{{}, certificate(t, "require")} {
		w := start(t, settings{tls: first})
		for _, o := range []postgres.TLSOptions{certificate(t, "require"), {}, certificate(t, "prefer")} {
			if err := w.reload(o); err != nil {
				t.Fatal(err)
			}
			for mode, want := range map[string]bool{"require": o.Mode != "", "disable": o.Mode != "require"} {
				for range 4 { // on whatever loop they come to
					if err := w.tryPgconn(t, "sslmode="+mode); (err == nil) != want {
						t.Errorf("weir: %+v, client: %s: %v", o.Mode, mode, err)
					}
				}
			}
		}
	}
}

// secured is a weir with TLS on both sides.
func secured(t *testing.T, c settings) *weir {
	t.Helper()
	pg := pgtest.Shared(t)
	root := write(t, t.TempDir(), "root.crt", pg.Authority.PEM)
	c.upstream = fmt.Sprintf("host=localhost port=%d dbname=app user=app password=app-secret sslmode=verify-full sslrootcert=%s", pg.Port, root)
	c.tls = certificate(t, "require")
	return start(t, c)
}

func TestTLSToTheServer(t *testing.T) {
	pg := pgtest.Shared(t)
	stranger := write(t, t.TempDir(), "root.crt", authority(t).PEM)
	good := write(t, t.TempDir(), "root.crt", pg.Authority.PEM)
	for params, want := range map[string]bool{
		"sslmode=disable":                             false,
		"sslmode=require":                             true,
		"sslmode=verify-ca sslrootcert=" + good:       true,
		"sslmode=verify-full sslrootcert=" + good:     true,
		"sslmode=require channel_binding=require":     true,
		"sslmode=verify-full sslrootcert=" + stranger: false,
	} {
		w := start(t, settings{
			upstream: strings.Replace(keyword(pg), "sslmode=disable", params, 1),
			limits:   postgres.Limits{LoginTimeout: 500 * time.Millisecond},
		})
		ctx := t.Context()
		conn, err := pgconn.Connect(ctx, w.dsn())
		if err != nil {
			if want || sqlstate(err) != "57P03" {
				t.Errorf("%s: %v", params, err)
			}
			continue
		}
		got, err := conn.Exec(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if encrypted := string(got[0].Rows[0][0]) == "t"; encrypted != want {
			t.Errorf("%s: encrypted is %v", params, encrypted)
		}
		_ = conn.Close(ctx)
	}
}

// Rows one way and COPY data the other, through event loops, more than any buffer holds.
func TestBigTransfersOverTLS(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			w := secured(t, settings{servers: 2})
			ctx := t.Context()
			cfg, err := pgconn.ParseConfig(w.dsn("sslmode=require"))
			if err != nil {
				t.Fatal(err)
			}
			cfg.TLSConfig.MinVersion, cfg.TLSConfig.MaxVersion = version, version
			c, err := pgconn.ConnectConfig(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background())
			got, err := c.Exec(ctx, "SELECT repeat(md5(i::text), 1000) FROM generate_series(1, 500) i; SELECT md5(string_agg(repeat(md5(i::text), 1000), '' ORDER BY i)) FROM generate_series(1, 500) i").ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, row := range got[0].Rows {
				all = append(all, row[0]...)
			}
			if len(all) != 16_000_000 {
				t.Errorf("received %d bytes, want 16000000", len(all))
			}
			if md := fmt.Sprintf("%x", md5.Sum(all)); md != string(got[1].Rows[0][0]) {
				t.Errorf("received md5 %s, want %s", md, got[1].Rows[0][0])
			}

			if _, err := c.Exec(ctx, "BEGIN; CREATE TEMP TABLE sink (line text) ON COMMIT DROP").ReadAll(); err != nil {
				t.Fatal(err)
			}
			line := append(bytes.Repeat([]byte("x"), 999), '\n')
			if tag, err := c.CopyFrom(ctx, bytes.NewReader(bytes.Repeat(line, 16_000)), "COPY sink FROM STDIN"); err != nil || tag.RowsAffected() != 16_000 {
				t.Errorf("%s, %v", tag, err)
			}
			got, err = c.Exec(ctx, "SELECT sum(length(line)) FROM sink; COMMIT").ReadAll()
			if err != nil || string(got[0].Rows[0][0]) != "15984000" {
				t.Errorf("stored %v, %v", got, err)
			}
		})
	}
}

func TestThousandsOfSmallQueriesOverTLS(t *testing.T) {
	pgtest.Shared(t)
	w := secured(t, settings{servers: 2})
	conn, err := pgx.Connect(t.Context(), w.dsn("sslmode=require"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for i := range 2000 {
		var got int
		if err := conn.QueryRow(t.Context(), "SELECT $1::int", i).Scan(&got); err != nil || got != i {
			t.Fatalf("query %d: %d, %v", i, got, err)
		}
	}
	batch := &pgx.Batch{}
	for i := range 2000 {
		batch.Queue("SELECT $1::int", i)
	}
	results := conn.SendBatch(t.Context(), batch)
	for i := range 2000 {
		var got int
		if err := results.QueryRow().Scan(&got); err != nil || got != i {
			t.Fatalf("query %d of the batch: %d, %v", i, got, err)
		}
	}
	if err := results.Close(); err != nil {
		t.Fatal(err)
	}
}

// A client that has said its last word still gets its answer: no. PostgreSQL takes the end of the stream for the end of the
// session, and so does a weir; what matters is that everything is given back.
func TestHalfCloseOverTLSEndsTheSession(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := secured(t, settings{servers: 1})
	c := w.client("sslmode=require")
	c.Query("SELECT 1")
	if err := c.Conn().(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.UntilClosed()
	w.eventually("the session is over", func() bool { return w.Stats().Clients["idle"] == 0 })

	c = w.client("sslmode=require")
	c.Send(&pgproto3.Query{String: "SELECT pg_sleep(60)"})
	w.eventually("the query runs", func() bool { return w.servers("used") == 1 })
	if err := c.Conn().(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.UntilClosed()
	w.eventually("the server is free again", func() bool { return w.servers("idle") == 1 && w.servers("used") == 0 })
}

// Trap 35: a client that stops reading stops its server and nobody else.
func TestAClientThatStopsReadingOverTLS(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := secured(t, settings{servers: 2, loops: 1})
	slow := w.client("sslmode=require")
	slow.Send(&pgproto3.Query{String: "SELECT repeat('x', 1000) FROM generate_series(1, 64000)"})
	slow.Receive()
	other := w.client("sslmode=require")
	for range 200 {
		other.Query("SELECT 1")
	}
	if n := len(pgtest.Rows(slow.UntilReady(1))); n != 64000 {
		t.Errorf("the slow client has %d rows, want 64000", n)
	}
	slow.Send(&pgproto3.Query{String: "SELECT repeat('x', 1000) FROM generate_series(1, 640000)"})
	slow.Receive()
	slow.Abort()
	w.eventually("its server is free again", func() bool { return w.servers("used") == 0 })
	other.Query("SELECT 1")
}

// Trap 13: cancel requests over TLS, to the weir and from it.
func TestCancelOverTLS(t *testing.T) {
	pg := pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := secured(t, settings{servers: 1})
	for _, negotiation := range []string{"postgres", "direct"} {
		c := w.pgconn("sslmode=require sslnegotiation=" + negotiation)
		began := time.Now()
		result := c.Exec(t.Context(), "SELECT pg_sleep(60)")
		awaitSleep(t, pg)
		if err := c.CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := result.ReadAll(); sqlstate(err) != "57014" {
			t.Errorf("%s: ended with %v", negotiation, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %v", negotiation, took)
		}
		if _, err := c.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
			t.Errorf("%s: afterwards: %v", negotiation, err)
		}
		_ = c.Close(t.Context())
	}
	t.Run("ends like the server's", func(t *testing.T) {
		c := tls.Client(w.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
		_, _ = c.Write(packet(80877102, "pid_key_"))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || !strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "unexpected") {
			t.Errorf("read %d bytes, %v; want TLS' own goodbye", n, err)
		}
	})
}

// What goes wrong in a login over TLS is said over TLS.
func TestErrorsOfALoginOverTLS(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{tls: certificate(t, "require")})
	c := tls.Client(w.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
	_, _ = c.Write(packet(v30, "user\x00app\x00database\x00nosuch\x00\x00"))
	if got := outcome(t, readAll(t, c)); got != "3D000" {
		t.Errorf("ended with %q", got)
	}
}
