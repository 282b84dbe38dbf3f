package pool_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/pool"
)

// nonceHere stands in what a server says for the nonce that the client has sent by then.
var nonceHere = []byte("<nonce>")

// FuzzServerLogin has a server say any bytes at login, and hang up: the dial ends in time, with a connection or an error.
func FuzzServerLogin(f *testing.F) {
	var answer atomic.Pointer[[]byte]
	fake := pgtest.Script{pgtest.ExpectStartup(), func(c *pgtest.ServerConn) error {
		before, behind, asks := bytes.Cut(*answer.Load(), nonceHere)
		_, err := c.Write(before)
		if err == nil && asks {
			m, _ := c.Receive()
			_, nonce, _ := bytes.Cut(m.Body, []byte("r="))
			_, err = c.Write(append(nonce, behind...))
		}
		return err
	}}.Serve(f)
	cfg, err := pgconn.ParseConfig(fake.DSN())
	if err != nil {
		f.Fatal(err)
	}
	dial := pool.Dial(cfg)

	sasl := pgtest.Encode(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	challenge := func(message string) []byte { // as long as it will be, once the nonce of 24 characters is in it
		b := pgtest.Encode(&pgproto3.AuthenticationSASLContinue{Data: []byte(message)})
		b[4] += byte(24 - bytes.Count(b, nonceHere)*len(nonceHere))
		return b
	}
	welcome := pgtest.Encode[pgproto3.BackendMessage](
		&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "server_version", Value: "15.0"},
		&pgproto3.BackendKeyData{SecretKey: []byte("1234")}, &pgproto3.ReadyForQuery{TxStatus: 'I'},
	)
	for at := range len(welcome) + 1 {
		f.Add(welcome[:at])
	}
	for _, m := range []pgproto3.BackendMessage{
		&pgproto3.AuthenticationCleartextPassword{}, &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1}}, &pgproto3.AuthenticationGSS{},
		&pgproto3.AuthenticationGSSContinue{Data: []byte("x")}, &pgproto3.AuthenticationSASL{}, &pgproto3.AuthenticationSASLFinal{Data: []byte("v=")},
		&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 1, UnrecognizedOptions: []string{"a"}}, &pgproto3.NoticeResponse{Severity: "NOTICE"},
		&pgproto3.ErrorResponse{Severity: "FATAL", Code: "53300"}, &pgproto3.ErrorResponse{}, &pgproto3.NotificationResponse{}, &pgproto3.DataRow{},
		&pgproto3.BackendKeyData{}, &pgproto3.BackendKeyData{SecretKey: make([]byte, 256)}, &pgproto3.ParameterStatus{},
	} {
		wire := pgtest.Encode(m)
		f.Add(wire)
		f.Add(append(wire[:len(wire):len(wire)], welcome...))
		f.Add(append(welcome[:9:9], wire...))
	}
	for _, message := range []string{
		"r=<nonce>x,s=c2FsdA==,i=1", "r=<nonce>x,s=c2FsdA==,i=9999999", "r=<nonce>x,s=c2FsdA==,i=-1", "r=<nonce>,s=,i=", "r=<nonce>,", "r=<nonce>x,s=*,i=1", "<nonce>",
	} {
		f.Add(append(sasl[:len(sasl):len(sasl)], challenge(message)...))
	}
	for _, length := range []uint32{0, 3, 4, 0x3fffffff, 0x40000000, 0x7fffffff, 0x80000000, 0xffffffff} {
		f.Add(append(first('R', length), welcome...))
		f.Add(append(welcome[:9:9], first('S', length)...))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		answer.Store(&said)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // for a server that waits for us while we wait for it
		defer cancel()
		began := time.Now()
		if d, err := dial(ctx, nil); err == nil {
			d.Close()
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
