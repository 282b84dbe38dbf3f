package auth_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// FuzzStep lets a client say two things it likes in every method, and holds Step to its promises: it does not panic,
// changes nothing that is not its own, answers with whole messages or a Failure, and lets nobody in who has proved
// nothing.
func FuzzStep(f *testing.F) {
	const (
		first     = "n=,r=" + clientNonce
		challenge = "r=" + clientNonce + serverNonce + ",s=" + salt16 + ",i=1"
	)
	methods := []auth.Method{auth.Password, auth.MD5, auth.SCRAM}
	seeds := [][2][]byte{
		{nil, nil},
		{[]byte("correct horse\x00"), []byte("\x00")},
		{[]byte("md560c92e765d2a0fb692bcb5d483fbea10\x00"), nil},
		{initialResponse("SCRAM-SHA-256", "n,,"+first), []byte(clientFinal(f, "guess", "biws", first, challenge))},
		{initialResponse("SCRAM-SHA-256", "y,,"+first+",x=1"), []byte("c=eSws,r=" + clientNonce + serverNonce + ",x=1,p=" + stored)},
		{initialResponse("SCRAM-SHA-256-PLUS", plusHeader+first), []byte("c=,r=,p=")},
		{initialResponse("SCRAM-SHA-256", ""), []byte("n,,n=,r=")},
		{append([]byte("SCRAM-SHA-256\x00"), 255, 255, 255, 255), []byte("n,a=x,m=1,n=a=2Cb,r=~")},
		{append([]byte("SCRAM-SHA-256\x00"), 0x7f, 255, 255, 255, 'n'), []byte("p=tls-unique,,n=,r=x")},
		{append([]byte("X"), bytes.Repeat([]byte{0}, 1100)...), nil},
	}
	for method := range methods {
		for _, seed := range seeds {
			f.Add(byte(method), true, seed[0], seed[1])
			f.Add(byte(method), false, seed[0], seed[1])
		}
	}

	bindings := map[bool]auth.Binding{true: auth.NewBinding(certificate), false: {}}
	key := auth.NewKey()
	secrets := map[string]string{"app": verifier(f, "a password that no fuzzer finds", []byte("0123456789abcdef"), 1)}
	tables := make([]*auth.Users, len(methods))
	for i, m := range methods {
		tables[i] = usersOf(f, m, key, secrets)
	}
	hash, err := auth.ParseSecret("md5" + md5Hex("a password that no fuzzer finds"))
	if err != nil {
		f.Fatal(err)
	}
	if tables[1], err = auth.NewUsers(auth.MD5, key, map[string]auth.Secret{"app": hash}); err != nil {
		f.Fatal(err)
	}

	f.Fuzz(func(t *testing.T, method byte, bound bool, one, two []byte) {
		for _, user := range []string{"app", "nobody"} {
			x := tables[int(method)%len(tables)].Begin(user, bindings[bound])
			out, done, err := x.Start(nil)
			if done || err != nil {
				t.Fatalf("Start: done %v, error %v", done, err)
			}
			x.SetServerNonce(serverNonce)
			for _, body := range [][]byte{one, two} {
				before, sent := slices.Clone(out), bytes.Clone(body)
				next, done, err := x.Step(out, body)
				if done || !bytes.Equal(sent, body) || !bytes.HasPrefix(next, before) {
					t.Fatalf("done %v, body changed %v, dst changed %v", done, !bytes.Equal(sent, body), !bytes.HasPrefix(next, before))
				}
				if err != nil {
					failure, ok := errors.AsType[*auth.Failure](err)
					if !ok || failure.Code == "" || failure.Message == "" || len(next) != len(before) {
						t.Fatalf("error %#v, said %q", err, next[len(before):])
					}
					if strings.ContainsAny(failure.Message+failure.Detail, "\x00\n") {
						t.Fatalf("failure %q", failure.Error())
					}
					break
				}
				for _, m := range decode(t, next) {
					if _, ok := m.(*pgproto3.AuthenticationOk); ok {
						t.Fatal("let in")
					}
				}
				out = next
			}
		}
	})
}
