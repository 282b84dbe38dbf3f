package postgres_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/proxy/postgres"
)

// certificate makes a certificate for 127.0.0.1.
func certificate(tb testing.TB, mode string) postgres.TLSOptions {
	tb.Helper()
	a, err := certs.NewAuthority("weir test")
	if err != nil {
		tb.Fatal(err)
	}
	return issue(tb, a, mode, false)
}

// issue writes a certificate of an authority, and the authority's own for those who ask clients for theirs, into a new directory.
func issue(tb testing.TB, a *certs.Authority, mode string, rsa bool) postgres.TLSOptions {
	tb.Helper()
	certPEM, keyPEM, err := a.Issue(certs.Request{CommonName: "weir", Hosts: []string{"127.0.0.1", "localhost"}, RSA: rsa})
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	return postgres.TLSOptions{
		Mode: mode, CertFile: write("server.crt", certPEM), KeyFile: write("server.key", keyPEM), ClientCAFile: write("ca.crt", a.PEM),
	}
}
