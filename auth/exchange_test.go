package auth_test

import (
	"bytes"
	"crypto/md5"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/auth"
)

// certificate is enough of one for a Binding.
var certificate = &x509.Certificate{Raw: []byte("certificate"), SignatureAlgorithm: x509.ECDSAWithSHA256}

const (
	clientNonce = "clientnonce"
	serverNonce = "servernonce"
	plusHeader  = "p=tls-server-end-point,,"
)

// TestSCRAMOfRFC7677 is the exchange of RFC 7677, section 3.
func TestSCRAMOfRFC7677(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	users := usersOf(t, auth.SCRAM, auth.NewKey(), map[string]string{"user": verifier(t, "pencil", salt, 4096)})
	x := users.Begin("user", auth.Binding{})

	out, done, err := x.Start(nil)
	want(t, out, done, err, false, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	x.SetServerNonce("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")

	out, done, err = x.Step(nil, initialResponse("SCRAM-SHA-256", "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
	want(t, out, done, err, false, &pgproto3.AuthenticationSASLContinue{
		Data: []byte("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
	})

	out, done, err = x.Step(nil, []byte("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	want(t, out, done, err, true,
		&pgproto3.AuthenticationSASLFinal{Data: []byte("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")},
		&pgproto3.AuthenticationOk{})
	if got := x.Method(); got != "scram-sha-256" {
		t.Errorf("method %q", got)
	}
}

// want compares the outcome of a turn.
func want(tb testing.TB, out []byte, done bool, err error, wantDone bool, messages ...pgproto3.BackendMessage) {
	tb.Helper()
	if err != nil || done != wantDone {
		tb.Fatalf("done %v, error %v, want done %v", done, err, wantDone)
	}
	if got := decode(tb, out); !reflect.DeepEqual(got, messages) {
		tb.Fatalf("messages %#v, want %#v", got, messages)
	}
}

// A client's words for every way a SCRAM exchange can go. The server's nonce is fixed.
func TestSCRAM(t *testing.T) {
	const (
		first     = "n=,r=" + clientNonce
		challenge = "r=" + clientNonce + serverNonce + ",s=" + salt16 + ",i=4096"
		noProof   = ",r=" + clientNonce + serverNonce
		someProof = ",p=" + stored
	)
	bound := auth.NewBinding(certificate)
	channel := func(header string) string { return base64.StdEncoding.EncodeToString([]byte(header)) }
	sum := channel(plusHeader + string(sha256Of(certificate.Raw)))
	initial := func(message string) []byte { return initialResponse("SCRAM-SHA-256", message) }
	plus := func(message string) []byte { return initialResponse("SCRAM-SHA-256-PLUS", message) }
	right := func(channel, bare string) []byte {
		return []byte(clientFinal(t, "correct horse", channel, bare, challenge))
	}

	tests := map[string]struct {
		binding auth.Binding
		steps   [][]byte
		want    auth.Failure // zero: the login succeeds
		label   string       // scram-sha-256 when empty
	}{
		"without channel binding":                        {steps: [][]byte{initial("n,," + first), right("biws", first)}},
		"able to bind, but the server does not offer it": {steps: [][]byte{initial("y,," + first), right("eSws", first)}},
		"unwilling to bind, though the server offers it": {binding: bound, steps: [][]byte{initial("n,," + first), right("biws", first)}},
		"bound":                           {binding: bound, steps: [][]byte{plus(plusHeader + first), right(sum, first)}, label: "scram-sha-256-plus"},
		"a user name is not looked at":    {steps: [][]byte{initial("n,,n=someone=2Celse,r=" + clientNonce), right("biws", "n=someone=2Celse,r="+clientNonce)}},
		"optional extensions in first":    {steps: [][]byte{initial("n,," + first + ",x=1,Y=2"), right("biws", first+",x=1,Y=2")}},
		"first message in its own packet": {steps: [][]byte{append([]byte("SCRAM-SHA-256\x00"), 255, 255, 255, 255), []byte("n,," + first), right("biws", first)}},
		"the wrong password": {
			steps: [][]byte{initial("n,," + first), []byte(clientFinal(t, "wrong", "biws", first, challenge))},
			want:  denied("app", "wrong password"),
		},
		"the right proof for other extensions": {
			steps: [][]byte{initial("n,," + first), bytes.Replace(right("biws", first), []byte(",p="), []byte(",x=1,p="), 1)},
			want:  denied("app", "wrong password"),
		},

		"no mechanism":                   {steps: [][]byte{nil}, want: violation("invalid string in message", "")},
		"a mechanism without an end":     {steps: [][]byte{[]byte("SCRAM-SHA-256")}, want: violation("invalid string in message", "")},
		"no length":                      {steps: [][]byte{[]byte("SCRAM-SHA-256\x00\x00")}, want: violation("insufficient data left in message", "")},
		"a length beyond the message":    {steps: [][]byte{[]byte("SCRAM-SHA-256\x00\x00\x00\x00\x05n,,")}, want: violation("insufficient data left in message", "")},
		"a negative length":              {steps: [][]byte{[]byte("SCRAM-SHA-256\x00\xff\xff\xff\xfe")}, want: violation("insufficient data left in message", "")},
		"a length short of the message":  {steps: [][]byte{[]byte("SCRAM-SHA-256\x00\x00\x00\x00\x01n,,")}, want: violation("invalid message format", "")},
		"nothing promised but something": {steps: [][]byte{[]byte("SCRAM-SHA-256\x00\xff\xff\xff\xffn")}, want: violation("invalid message format", "")},
		"an unknown mechanism":           {steps: [][]byte{initialResponse("SCRAM-SHA-1", "n,,"+first)}, want: violation("client selected an invalid SASL authentication mechanism", "")},
		"PLUS though it is not offered":  {steps: [][]byte{plus(plusHeader + first)}, want: violation("client selected an invalid SASL authentication mechanism", "")},
		"a message beyond the limit":     {steps: [][]byte{make([]byte, 1025)}, want: violation("invalid message length", "The message is longer than 1024 bytes.")},
		"an empty first message":         {steps: [][]byte{initial("")}, want: malformed("The message is empty.")},
		"an empty packet for it":         {steps: [][]byte{append([]byte("SCRAM-SHA-256\x00"), 255, 255, 255, 255), nil}, want: malformed("The message is empty.")},
		"a NUL in the first message":     {steps: [][]byte{initial("n,,n=,r=a\x00b")}, want: malformed("Message length does not match input length.")},

		"y though PLUS is offered": {
			binding: bound, steps: [][]byte{initial("y,," + first)},
			want: auth.Failure{
				Code: "28000", Message: "SCRAM channel binding negotiation error",
				Detail: "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
			},
		},
		"PLUS with n": {
			binding: bound, steps: [][]byte{plus("n,," + first)}, label: "scram-sha-256-plus",
			want: malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."),
		},
		"PLUS with y": {
			binding: bound, steps: [][]byte{plus("y,," + first)}, label: "scram-sha-256-plus",
			want: malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."),
		},
		"p without PLUS": {
			binding: bound, steps: [][]byte{initial(plusHeader + first)},
			want: malformed("The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data."),
		},
		"another channel binding": {
			binding: bound, steps: [][]byte{plus("p=tls-unique\n,,," + first)}, label: "scram-sha-256-plus",
			want: violation(`unsupported SCRAM channel-binding type "tls-unique?"`, ""),
		},
		"a long name of a channel binding": {
			binding: bound, steps: [][]byte{plus("p=" + strings.Repeat("x", 500) + ",," + first)}, label: "scram-sha-256-plus",
			want: violation(`unsupported SCRAM channel-binding type "`+strings.Repeat("x", 30)+`"`, ""),
		},
		"p without a name":                  {binding: bound, steps: [][]byte{plus("p,," + first)}, label: "scram-sha-256-plus", want: malformed(`Expected character "=" for attribute "p".`)},
		"an unknown flag":                   {steps: [][]byte{initial("x,," + first)}, want: malformed(`Unexpected channel-binding flag "x".`)},
		"an unknown byte as a flag":         {steps: [][]byte{initial("\xff,," + first)}, want: malformed(`Unexpected channel-binding flag "0xff".`)},
		"no comma after the flag":           {steps: [][]byte{initial("nn," + first)}, want: malformed(`Comma expected, but found character "n".`)},
		"nothing after the flag":            {steps: [][]byte{initial("n")}, want: malformed(`Comma expected, but found character "0x00".`)},
		"an authorization identity":         {steps: [][]byte{initial("n,a=admin," + first)}, want: auth.Failure{Code: "0A000", Message: "client uses authorization identity, but it is not supported"}},
		"something else in its place":       {steps: [][]byte{initial("n,b=admin," + first)}, want: malformed(`Unexpected attribute "b" in client-first-message.`)},
		"only half a header":                {steps: [][]byte{initial("n,")}, want: malformed(`Unexpected attribute "0x00" in client-first-message.`)},
		"a mandatory extension":             {steps: [][]byte{initial("n,,m=x," + first)}, want: auth.Failure{Code: "0A000", Message: "client requires an unsupported SCRAM extension"}},
		"only a header":                     {steps: [][]byte{initial("n,,")}, want: malformed(`Expected attribute "n" but found "0x00".`)},
		"no user name":                      {steps: [][]byte{initial("n,,r=" + clientNonce)}, want: malformed(`Expected attribute "n" but found "r".`)},
		"a user name without an equals":     {steps: [][]byte{initial("n,,n")}, want: malformed(`Expected character "=" for attribute "n".`)},
		"no nonce":                          {steps: [][]byte{initial("n,,n=,x=1")}, want: malformed(`Expected attribute "r" but found "x".`)},
		"an empty nonce":                    {steps: [][]byte{initial("n,,n=,r=")}, want: malformed("The nonce is empty.")},
		"a blank in the nonce":              {steps: [][]byte{initial("n,,n=,r=a b")}, want: violation("non-printable characters in SCRAM nonce", "")},
		"a high byte in the nonce":          {steps: [][]byte{initial("n,,n=,r=a\x80")}, want: violation("non-printable characters in SCRAM nonce", "")},
		"an extension that is not a letter": {steps: [][]byte{initial("n,," + first + ",1=x")}, want: malformed(`Attribute expected, but found invalid character "1".`)},
		"an extension without a value":      {steps: [][]byte{initial("n,," + first + ",x")}, want: malformed(`Expected character "=" for attribute "x".`)},

		"an empty last message":          {steps: [][]byte{initial("n,," + first), nil}, want: malformed("The message is empty.")},
		"a NUL in the last message":      {steps: [][]byte{initial("n,," + first), []byte("c=biws\x00")}, want: malformed("Message length does not match input length.")},
		"no channel":                     {steps: [][]byte{initial("n,," + first), []byte("r=x")}, want: malformed(`Expected attribute "c" but found "r".`)},
		"another channel than announced": {steps: [][]byte{initial("n,," + first), []byte("c=eSws" + noProof + someProof)}, want: violation("unexpected SCRAM channel-binding attribute in client-final-message", "")},
		"n, then bound":                  {binding: bound, steps: [][]byte{initial("n,," + first), []byte("c=" + sum + noProof + someProof)}, want: violation("unexpected SCRAM channel-binding attribute in client-final-message", "")},
		"bound to another certificate": {
			binding: bound, steps: [][]byte{plus(plusHeader + first), right(channel(plusHeader+string(sha256Of([]byte("other")))), first)}, label: "scram-sha-256-plus",
			want: auth.Failure{Code: "28000", Message: "SCRAM channel binding check failed"},
		},
		"bound to nothing": {
			binding: bound, steps: [][]byte{plus(plusHeader + first), right("biws", first)}, label: "scram-sha-256-plus",
			want: auth.Failure{Code: "28000", Message: "SCRAM channel binding check failed"},
		},
		"no nonce at last":          {steps: [][]byte{initial("n,," + first), []byte("c=biws" + someProof)}, want: malformed(`Expected attribute "r" but found "p".`)},
		"only the client's nonce":   {steps: [][]byte{initial("n,," + first), []byte("c=biws,r=" + clientNonce + someProof)}, want: violation("invalid SCRAM response", "Nonce does not match.")},
		"another nonce":             {steps: [][]byte{initial("n,," + first), []byte("c=biws,r=" + serverNonce + clientNonce + someProof)}, want: violation("invalid SCRAM response", "Nonce does not match.")},
		"more than the nonce":       {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + "x" + someProof)}, want: violation("invalid SCRAM response", "Nonce does not match.")},
		"no proof":                  {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof)}, want: malformed("Attribute expected, but found end of string.")},
		"no proof but an extension": {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + ",x=1")}, want: malformed("Attribute expected, but found end of string.")},
		"a proof without a value":   {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + ",p")}, want: malformed(`Expected character "=" for attribute "p".`)},
		"a short proof":             {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + ",p=" + salt16)}, want: malformed("Malformed proof in client-final-message.")},
		"a proof not in base64":     {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + ",p=*" + stored[1:])}, want: malformed("Malformed proof in client-final-message.")},
		"a proof with a line break": {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + someProof + "\n")}, want: malformed("Malformed proof in client-final-message.")},
		"something after the proof": {steps: [][]byte{initial("n,," + first), []byte("c=biws" + noProof + someProof + ",x=1")}, want: malformed("Garbage found at the end of client-final-message.")},
		"an initial response twice": {steps: [][]byte{initial("n,," + first), initial("n,," + first)}, want: malformed("Message length does not match input length.")},
	}
	users := usersOf(t, auth.SCRAM, auth.NewKey(), map[string]string{"app": postgresVerifier})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			x := users.Begin("app", test.binding)
			if _, _, err := x.Start(nil); err != nil {
				t.Fatal(err)
			}
			x.SetServerNonce(serverNonce)
			runs(t, x, test.steps, test.want)
			label := "scram-sha-256"
			if test.label != "" {
				label = test.label
			}
			if got := x.Method(); got != label {
				t.Errorf("method %q, want %q", got, label)
			}
		})
	}
}

// runs takes the steps and checks how the last one ends.
func runs(tb testing.TB, x *auth.Exchange, steps [][]byte, want auth.Failure) {
	tb.Helper()
	before := []byte("before")
	for i, body := range steps {
		sent := bytes.Clone(body)
		out, done, err := x.Step(before, body)
		if !bytes.Equal(sent, body) || !bytes.HasPrefix(out, before) {
			tb.Fatalf("step %d: changed what is not its own", i)
		}
		if i < len(steps)-1 {
			if done || err != nil {
				tb.Fatalf("step %d: done %v, error %v", i, done, err)
			}
			continue
		}
		if want == (auth.Failure{}) {
			if !done || err != nil {
				tb.Fatalf("not let in: done %v, error %v", done, err)
			}
			messages := decode(tb, out[len(before):])
			if _, ok := messages[len(messages)-1].(*pgproto3.AuthenticationOk); !ok {
				tb.Fatalf("last message %#v", messages[len(messages)-1])
			}
		} else {
			fails(tb, out, done, err, want)
			if len(out) != len(before) {
				tb.Errorf("said %q before failing", out)
			}
		}
	}
	_, done, err := x.Step(nil, steps[len(steps)-1])
	fails(tb, nil, done, err, violation("invalid message", "No authentication is going on."))
}

func fails(tb testing.TB, _ []byte, done bool, err error, want auth.Failure) {
	tb.Helper()
	failure, ok := errors.AsType[*auth.Failure](err)
	if !ok || done {
		tb.Fatalf("done %v, error %v, want %+v", done, err, want)
	}
	if *failure != want {
		tb.Errorf("failure %+v, want %+v", *failure, want)
	}
	for _, part := range []string{want.Message, want.Detail, want.Reason} {
		if !strings.Contains(err.Error(), part) {
			tb.Errorf("error %q lacks %q", err, part)
		}
	}
}

func denied(user, reason string) auth.Failure {
	return auth.Failure{Code: "28P01", Message: `password authentication failed for user "` + user + `"`, Reason: reason}
}

func violation(message, detail string) auth.Failure {
	return auth.Failure{Code: "08P01", Message: message, Detail: detail}
}

func malformed(detail string) auth.Failure { return violation("malformed SCRAM message", detail) }

func TestPasswordMethod(t *testing.T) {
	const md5Hash = "md560c92e765d2a0fb692bcb5d483fbea10" // of "correct horse" for app2, from PostgreSQL 15.18
	users := usersOf(t, auth.Password, auth.NewKey(), map[string]string{
		"app": postgresVerifier, "app2": md5Hash, "plain": "correct horse", "prepared": "I\u00adX", "none": "",
	})
	tests := map[string]struct {
		user, body string
		want       auth.Failure
	}{
		"against a verifier":              {"app", "correct horse\x00", auth.Failure{}},
		"against an md5 hash":             {"app2", "correct horse\x00", auth.Failure{}},
		"against plain text":              {"plain", "correct horse\x00", auth.Failure{}},
		"plain text is prepared":          {"prepared", "IX\x00", auth.Failure{}},
		"wrong against a verifier":        {"app", "correct\x00", denied("app", "wrong password")},
		"wrong against an md5 hash":       {"app2", "correct\x00", denied("app2", "wrong password")},
		"wrong against plain text":        {"plain", "correct\x00", denied("plain", "wrong password")},
		"the hash is not the password":    {"app2", md5Hash + "\x00", denied("app2", "wrong password")},
		"the verifier is not either":      {"app", postgresVerifier + "\x00", denied("app", "wrong password")},
		"an unknown user":                 {"nobody", "correct horse\x00", denied("nobody", "there is no such user")},
		"a user without a password":       {"none", "correct horse\x00", denied("none", "the user has no password")},
		"a name that is meant to mislead": {"x\"\n", "y\x00", denied("x\"\n", "there is no such user")},
		"an empty password":               {"plain", "\x00", auth.Failure{Code: "28P01", Message: "empty password returned by client"}},
		"an empty message":                {"plain", "", violation("invalid password packet size", "A password and one NUL after it were expected.")},
		"no NUL":                          {"plain", "correct horse", violation("invalid password packet size", "A password and one NUL after it were expected.")},
		"a NUL inside":                    {"plain", "correct\x00 horse\x00", violation("invalid password packet size", "A password and one NUL after it were expected.")},
		"longer than the limit":           {"plain", strings.Repeat("x", 65536), violation("invalid message length", "The message is longer than 65535 bytes.")},
		"as long as the limit":            {"plain", strings.Repeat("x", 65534) + "\x00", denied("plain", "wrong password")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			x := users.Begin(test.user, auth.NewBinding(certificate))
			out, done, err := x.Start(nil)
			want(t, out, done, err, false, &pgproto3.AuthenticationCleartextPassword{})
			if x.Method() != "password" || x.Limit() != 65535 {
				t.Errorf("method %q, limit %d", x.Method(), x.Limit())
			}
			runs(t, x, [][]byte{[]byte(test.body)}, test.want)
		})
	}
}

func TestMD5Method(t *testing.T) {
	users := usersOf(t, auth.MD5, auth.NewKey(), map[string]string{
		"app2": "md560c92e765d2a0fb692bcb5d483fbea10", "plain": "correct horse", "none": "",
	})
	answer := func(password, user string, salt [4]byte) string {
		return "md5" + md5Hex(md5Hex(password+user)+string(salt[:])) + "\x00"
	}
	tests := map[string]struct {
		user   string
		answer func(salt [4]byte) string
		want   auth.Failure
	}{
		"a hash of PostgreSQL":       {"app2", func(s [4]byte) string { return answer("correct horse", "app2", s) }, auth.Failure{}},
		"plain text":                 {"plain", func(s [4]byte) string { return answer("correct horse", "plain", s) }, auth.Failure{}},
		"the wrong password":         {"plain", func(s [4]byte) string { return answer("correct", "plain", s) }, denied("plain", "wrong password")},
		"another user's hash":        {"plain", func(s [4]byte) string { return answer("correct horse", "app2", s) }, denied("plain", "wrong password")},
		"another salt":               {"plain", func([4]byte) string { return answer("correct horse", "plain", [4]byte{}) }, denied("plain", "wrong password")},
		"without the prefix":         {"plain", func(s [4]byte) string { return answer("correct horse", "plain", s)[3:] }, denied("plain", "wrong password")},
		"the password itself":        {"plain", func([4]byte) string { return "correct horse\x00" }, denied("plain", "wrong password")},
		"an unknown user":            {"nobody", func(s [4]byte) string { return answer("correct horse", "nobody", s) }, denied("nobody", "there is no such user")},
		"a user without a password":  {"none", func(s [4]byte) string { return answer("", "none", s) }, denied("none", "the user has no password")},
		"an empty answer":            {"plain", func([4]byte) string { return "\x00" }, auth.Failure{Code: "28P01", Message: "empty password returned by client"}},
		"an answer without its NUL":  {"plain", func([4]byte) string { return "md5" }, violation("invalid password packet size", "A password and one NUL after it were expected.")},
		"an answer beyond the limit": {"plain", func([4]byte) string { return strings.Repeat("x", 65536) }, violation("invalid message length", "The message is longer than 65535 bytes.")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			x := users.Begin(test.user, auth.Binding{})
			out, done, err := x.Start(nil)
			if done || err != nil || x.Method() != "md5" {
				t.Fatalf("done %v, error %v, method %q", done, err, x.Method())
			}
			challenge := decode(t, out)[0].(*pgproto3.AuthenticationMD5Password)
			runs(t, x, [][]byte{[]byte(test.answer(challenge.Salt))}, test.want)
		})
	}
}

func md5Hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestTrust(t *testing.T) {
	listed := map[string]string{"app": "secret", "none": "", "hashed": "md560c92e765d2a0fb692bcb5d483fbea10"}
	noRole := auth.Failure{Code: "28000", Message: `role "nobody" does not exist`, Reason: "there is no such user"}
	tests := map[string]struct {
		secrets map[string]string
		user    string
		want    auth.Failure
	}{
		"everyone when nobody is listed": {nil, "nobody", auth.Failure{}},
		"a listed user":                  {listed, "app", auth.Failure{}},
		"one without a password":         {listed, "none", auth.Failure{}},
		"one with an md5 hash":           {listed, "hashed", auth.Failure{}},
		"one who is not listed":          {listed, "nobody", noRole},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			x := usersOf(t, auth.Trust, auth.NewKey(), test.secrets).Begin(test.user, auth.Binding{})
			out, done, err := x.Start(nil)
			if test.want == (auth.Failure{}) {
				want(t, out, done, err, true, &pgproto3.AuthenticationOk{})
			} else {
				fails(t, out, done, err, test.want)
			}
			if x.Method() != "trust" || x.Limit() != 0 {
				t.Errorf("method %q, limit %d", x.Method(), x.Limit())
			}
			_, done, err = x.Step(nil, nil)
			fails(t, nil, done, err, violation("invalid message", "No authentication is going on."))
		})
	}
}

func TestAnExchangeIsStartedOnce(t *testing.T) {
	users := usersOf(t, auth.MD5, auth.NewKey(), map[string]string{"app": "x"})

	x := users.Begin("app", auth.Binding{})
	_, done, err := x.Step(nil, []byte("x\x00"))
	fails(t, nil, done, err, violation("invalid message", "No authentication is going on."))

	x = users.Begin("app", auth.Binding{})
	if _, _, err := x.Start(nil); err != nil {
		t.Fatal(err)
	}
	_, done, err = x.Start(nil)
	fails(t, nil, done, err, violation("invalid message", "The authentication has begun."))
	_, done, err = x.Step(nil, []byte("x\x00"))
	fails(t, nil, done, err, violation("invalid message", "No authentication is going on."))
}

// As PostgreSQL: md5 asks for SCRAM where a verifier is all there is, and plain text serves either.
func TestMD5MethodAsksForSCRAMWhereThereIsAVerifier(t *testing.T) {
	users := usersOf(t, auth.MD5, auth.NewKey(), map[string]string{"app": postgresVerifier})
	x := users.Begin("app", auth.NewBinding(certificate))
	out, done, err := x.Start(nil)
	want(t, out, done, err, false, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}})
	x.SetServerNonce(serverNonce)
	const first = "n=,r=" + clientNonce
	challenge := "r=" + clientNonce + serverNonce + ",s=" + salt16 + ",i=4096"
	runs(t, x, [][]byte{
		initialResponse("SCRAM-SHA-256", "n,,"+first),
		[]byte(clientFinal(t, "correct horse", "biws", first, challenge)),
	}, auth.Failure{})
}
