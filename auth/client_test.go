package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// login lets pgx's own client log in over a pipe, and returns both sides' view of it.
func login(t *testing.T, users *auth.Users, certificate *tls.Certificate, dsn string) (method string, serverErr, clientErr error) {
	t.Helper()
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return client, nil }

	served := make(chan struct{})
	go func() {
		defer close(served)
		defer server.Close()
		method, serverErr = serve(server, users, certificate)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, clientErr := pgconn.ConnectConfig(ctx, config)
	if clientErr == nil {
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	client.Close()
	<-served
	return method, serverErr, clientErr
}

// serve is all of a server that a login needs.
func serve(conn net.Conn, users *auth.Users, certificate *tls.Certificate) (method string, err error) {
	backend := pgproto3.NewBackend(conn, conn)
	var binding auth.Binding
	startup, err := backend.ReceiveStartupMessage()
	if err != nil {
		return "", err
	}
	if _, ok := startup.(*pgproto3.SSLRequest); ok {
		if _, err := conn.Write([]byte("S")); err != nil {
			return "", err
		}
		secured := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*certificate}})
		backend, conn = pgproto3.NewBackend(secured, secured), secured
		binding = auth.NewBinding(certificate.Leaf)
		if startup, err = backend.ReceiveStartupMessage(); err != nil {
			return "", err
		}
	}

	x := users.Begin(startup.(*pgproto3.StartupMessage).Parameters["user"], binding)
	out, done, err := x.Start(nil)
	for err == nil && !done {
		if _, err := conn.Write(out); err != nil {
			return x.Method(), err
		}
		body, err2 := receive(conn, x.Limit())
		if err2 != nil {
			return x.Method(), err2
		}
		out, done, err = x.Step(out[:0], body)
	}
	if failure, ok := errors.AsType[*auth.Failure](err); ok {
		refusal, _ := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: failure.Code, Message: failure.Message, Detail: failure.Detail}).Encode(nil)
		_, _ = conn.Write(refusal)
		return x.Method(), failure
	}
	out, _ = (&pgproto3.ReadyForQuery{TxStatus: 'I'}).Encode(out)
	if _, err := conn.Write(out); err != nil {
		return x.Method(), err
	}
	_, err = io.Copy(io.Discard, conn) // until the client has gone
	return x.Method(), err
}

// receive reads the body of one message.
func receive(conn net.Conn, limit int) ([]byte, error) {
	var header [5]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint32(header[1:])) - 4
	if length < 0 || length > limit {
		return nil, fmt.Errorf("message %c of %d bytes", header[0], length)
	}
	body := make([]byte, length)
	_, err := io.ReadFull(conn, body)
	return body, err
}

// signed makes a certificate with the key, signed by itself.
func signed(t *testing.T, key crypto.Signer, algorithm x509.SignatureAlgorithm) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:       big.NewInt(1),
		Subject:            pkix.Name{CommonName: "weir"},
		NotAfter:           time.Now().Add(time.Hour),
		SignatureAlgorithm: algorithm,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

func TestPgxLogsIn(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	certificates := map[string]*tls.Certificate{
		"none":        nil,
		"RSA":         signed(t, rsaKey, x509.SHA256WithRSA),
		"RSA-SHA512":  signed(t, rsaKey, x509.SHA512WithRSA),
		"RSA-PSS-384": signed(t, rsaKey, x509.SHA384WithRSAPSS),
		"P-256":       signed(t, p256, x509.ECDSAWithSHA256),
		"P-384":       signed(t, p384, x509.ECDSAWithSHA384),
		"Ed25519":     signed(t, ed, x509.PureEd25519),
	}
	secrets := map[string]string{
		"app":   postgresVerifier,
		"app2":  "md560c92e765d2a0fb692bcb5d483fbea10",
		"plain": "correct horse",
		"none":  "",
	}
	const refused = "FATAL: password authentication failed for user"
	tests := map[string]struct {
		method      auth.Method
		certificate string
		user        string
		password    string
		options     string
		label       string
		err         string // part of the client's error; empty: it is let in
	}{
		"trust":                                   {auth.Trust, "none", "app", "", "", "trust", ""},
		"trust of somebody else":                  {auth.Trust, "none", "nobody", "", "", "trust", `role "nobody" does not exist (SQLSTATE 28000)`},
		"password against a verifier":             {auth.Password, "none", "app", "correct horse", "", "password", ""},
		"password against an md5 hash":            {auth.Password, "none", "app2", "correct horse", "", "password", ""},
		"password against plain text":             {auth.Password, "P-256", "plain", "correct horse", "", "password", ""},
		"the wrong password":                      {auth.Password, "none", "plain", "wrong", "", "password", refused},
		"md5 against a hash":                      {auth.MD5, "none", "app2", "correct horse", "", "md5", ""},
		"md5 against plain text":                  {auth.MD5, "none", "plain", "correct horse", "", "md5", ""},
		"md5 against a verifier":                  {auth.MD5, "none", "app", "correct horse", "", "scram-sha-256", ""},
		"md5 with the wrong password":             {auth.MD5, "none", "app2", "wrong", "", "md5", refused},
		"SCRAM against a verifier":                {auth.SCRAM, "none", "app", "correct horse", "", "scram-sha-256", ""},
		"SCRAM against plain text":                {auth.SCRAM, "none", "plain", "correct horse", "", "scram-sha-256", ""},
		"SCRAM against an md5 hash":               {auth.SCRAM, "none", "app2", "correct horse", "", "scram-sha-256", refused},
		"SCRAM with the wrong password":           {auth.SCRAM, "none", "app", "wrong", "", "scram-sha-256", refused},
		"SCRAM of an unknown user":                {auth.SCRAM, "none", "nobody", "correct horse", "", "scram-sha-256", refused + ` "nobody" (SQLSTATE 28P01)`},
		"SCRAM of a user without a password":      {auth.SCRAM, "none", "none", "", "", "scram-sha-256", refused},
		"SCRAM-PLUS with RSA":                     {auth.SCRAM, "RSA", "app", "correct horse", "require", "scram-sha-256-plus", ""},
		"SCRAM-PLUS with RSA and SHA-512":         {auth.SCRAM, "RSA-SHA512", "app", "correct horse", "require", "scram-sha-256-plus", ""},
		"SCRAM-PLUS with RSA-PSS":                 {auth.SCRAM, "RSA-PSS-384", "app", "correct horse", "require", "scram-sha-256-plus", ""},
		"SCRAM-PLUS with P-256":                   {auth.SCRAM, "P-256", "plain", "correct horse", "require", "scram-sha-256-plus", ""},
		"SCRAM-PLUS with P-384":                   {auth.SCRAM, "P-384", "app", "correct horse", "require", "scram-sha-256-plus", ""},
		"SCRAM-PLUS with the wrong password":      {auth.SCRAM, "P-256", "app", "wrong", "require", "scram-sha-256-plus", refused},
		"SCRAM-PLUS under md5":                    {auth.MD5, "P-256", "app", "correct horse", "require", "scram-sha-256-plus", ""},
		"PLUS is taken when it is offered":        {auth.SCRAM, "P-256", "app", "correct horse", "prefer", "scram-sha-256-plus", ""},
		"SCRAM over TLS, unbound":                 {auth.SCRAM, "P-256", "app", "correct horse", "disable", "scram-sha-256", ""},
		"Ed25519 has no PLUS":                     {auth.SCRAM, "Ed25519", "app", "correct horse", "prefer", "scram-sha-256", ""},
		"Ed25519 is no use to who insists on one": {auth.SCRAM, "Ed25519", "app", "correct horse", "require", "scram-sha-256", "server does not support SCRAM-SHA-256-PLUS"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			users := usersOf(t, test.method, auth.NewKey(), secrets)
			certificate, mode := certificates[test.certificate], "require"
			if certificate == nil {
				mode = "disable"
			}
			if test.options == "" {
				test.options = "prefer"
			}
			dsn := "host=weir user=" + test.user + " password='" + test.password + "' dbname=orders sslmode=" + mode + " channel_binding=" + test.options
			label, serverErr, clientErr := login(t, users, certificate, dsn)
			if label != test.label {
				t.Errorf("method %q, want %q", label, test.label)
			}
			if test.err == "" && (clientErr != nil || serverErr != nil) {
				t.Errorf("client %v, server %v", clientErr, serverErr)
			}
			if test.err != "" && (clientErr == nil || serverErr == nil || !strings.Contains(clientErr.Error(), test.err)) {
				t.Errorf("client %v, server %v, want %q", clientErr, serverErr, test.err)
			}
		})
	}
}

// A man in the middle with a certificate of his own: the client binds to that, the server to its own.
func TestAnotherCertificateInTheMiddleIsNoticed(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	own, other := signed(t, key, x509.ECDSAWithSHA256), signed(t, key, x509.ECDSAWithSHA256)
	own.Leaf = other.Leaf // what weir believes it has presented
	users := usersOf(t, auth.SCRAM, auth.NewKey(), map[string]string{"app": postgresVerifier})
	_, _, err := login(t, users, own, "host=weir user=app password='correct horse' sslmode=require")
	if err == nil || !strings.Contains(err.Error(), "FATAL: SCRAM channel binding check failed (SQLSTATE 28000)") {
		t.Errorf("client %v", err)
	}
}
