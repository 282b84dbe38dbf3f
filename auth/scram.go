package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
)

// SCRAM-SHA-256 of RFC 5802 and RFC 7677, and its -PLUS over TLS, with the words and the order of checks of PostgreSQL.

// The SASL mechanisms.
const (
	scramName     = "SCRAM-SHA-256"
	scramPlusName = "SCRAM-SHA-256-PLUS"
)

// maxSASL is PostgreSQL's bound on a SASL message, in bytes.
const maxSASL = 1024

// serverNonceLength is in bytes before base64, as in PostgreSQL.
const serverNonceLength = 18

var scramSHA256 = proof{label: string(SCRAM), limit: maxSASL, start: startSCRAM, step: stepSCRAM}

// scramState is what an exchange remembers from one message to the next.
type scramState struct {
	next        scramMessage
	plus        bool   // the client has chosen SCRAM-SHA-256-PLUS
	channel     string // what c= must be in the last message
	nonce       []byte // the client's and the server's, joined; part of authMessage
	serverNonce []byte // in base64
	authMessage []byte // what is signed: client-first-message-bare, server-first-message, client-final-message-without-proof
}

// scramMessage is the message that is awaited.
type scramMessage int

const (
	saslInitialResponse scramMessage = iota // the mechanism and, with most clients, client-first-message
	clientFirst                             // alone, after a SASLInitialResponse without it
	clientFinal
)

func startSCRAM(x *Exchange, dst []byte) ([]byte, bool, error) {
	var random [serverNonceLength]byte
	_, _ = rand.Read(random[:]) // never fails: it ends the process instead
	x.scram.serverNonce = base64.StdEncoding.AppendEncode(nil, random[:])

	mechanisms := scramName + "\x00\x00"
	if x.binding.offered() {
		mechanisms = scramPlusName + "\x00" + mechanisms
	}
	return appendAuth(dst, authSASL, []byte(mechanisms)...), false, nil
}

func stepSCRAM(x *Exchange, dst, body []byte) ([]byte, bool, error) {
	s := &x.scram
	if s.next == saslInitialResponse {
		mechanism, response, ok, err := parseInitialResponse(body)
		if err != nil {
			return nil, false, err
		}
		s.plus = mechanism == scramPlusName && x.binding.offered()
		if mechanism != scramName && !s.plus {
			return nil, false, &Failure{Code: codeProtocolViolation, Message: "client selected an invalid SASL authentication mechanism"}
		}
		s.next = clientFirst
		if !ok {
			return appendAuth(dst, authSASLContinue), false, nil
		}
		body = response
	}
	if len(body) == 0 {
		return nil, false, malformed("The message is empty.")
	}
	if bytes.IndexByte(body, 0) >= 0 {
		return nil, false, malformed("Message length does not match input length.")
	}
	if s.next == clientFirst {
		s.next = clientFinal
		return x.challengeSCRAM(dst, body)
	}
	return x.verifySCRAM(dst, body)
}

// parseInitialResponse takes a SASLInitialResponse apart; ok says whether the client has sent its first message along.
func parseInitialResponse(body []byte) (mechanism string, response []byte, ok bool, err error) {
	name, rest, found := bytes.Cut(body, []byte{0})
	if !found {
		return "", nil, false, &Failure{Code: codeProtocolViolation, Message: "invalid string in message"}
	}
	if len(rest) < 4 {
		return "", nil, false, &Failure{Code: codeProtocolViolation, Message: "insufficient data left in message"}
	}
	length := int32(binary.BigEndian.Uint32(rest))
	rest = rest[4:]
	if ok = length != -1; !ok {
		length = 0
	}
	switch {
	case length < 0 || int(length) > len(rest):
		return "", nil, false, &Failure{Code: codeProtocolViolation, Message: "insufficient data left in message"}
	case int(length) < len(rest):
		return "", nil, false, &Failure{Code: codeProtocolViolation, Message: "invalid message format"}
	}
	return string(name), rest, ok, nil
}

// challengeSCRAM answers client-first-message with server-first-message.
func (x *Exchange) challengeSCRAM(dst, message []byte) ([]byte, bool, error) {
	s := &x.scram
	bare, err := x.readHeader(message)
	if err != nil {
		return nil, false, err
	}
	clientNonce, err := readClientFirstBare(bare)
	if err != nil {
		return nil, false, err
	}

	challenge := x.credential.challenge
	nonce := len(clientNonce) + len(s.serverNonce)
	final := len("c=,r=") + len(s.channel) + nonce
	s.authMessage = make([]byte, 0, len(bare)+len(",r=")+nonce+len(challenge)+len(",")+final)
	s.authMessage = append(append(s.authMessage, bare...), ",r="...)
	from := len(s.authMessage)
	s.authMessage = append(append(s.authMessage, clientNonce...), s.serverNonce...)
	s.nonce = s.authMessage[from:]
	s.authMessage = append(s.authMessage, challenge...)
	return appendAuth(dst, authSASLContinue, s.authMessage[from-len("r="):]...), false, nil
}

// readHeader reads the GS2 header, which says what the client thinks of channel binding, and returns the rest.
func (x *Exchange) readHeader(message []byte) (bare []byte, err error) {
	s := &x.scram
	p := attributes{message}
	switch flag := p.peek(); flag {
	case 'n', 'y': // it cannot or will not; it could but believes that the server cannot
		if s.plus {
			return nil, malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.")
		}
		if flag == 'y' && x.binding.offered() {
			return nil, &Failure{
				Code:    codeInvalidAuthorization,
				Message: "SCRAM channel binding negotiation error",
				Detail:  "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
			}
		}
		s.channel = "biws" // n,,
		if flag == 'y' {
			s.channel = "eSws" // y,,
		}
		p.skip()
		if p.peek() != ',' {
			return nil, malformed("Comma expected, but found character %s.", quoteByte(p.peek()))
		}
		p.skip()
	case 'p':
		if !s.plus {
			return nil, malformed("The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.")
		}
		kind, err := p.value('p')
		if err != nil {
			return nil, err
		}
		if string(kind) != bindingType {
			return nil, &Failure{
				Code:    codeProtocolViolation,
				Message: `unsupported SCRAM channel-binding type "` + printable(kind) + `"`,
			}
		}
		s.channel = x.binding.header
	default:
		return nil, malformed("Unexpected channel-binding flag %s.", quoteByte(flag))
	}

	switch p.peek() {
	case ',':
	case 'a':
		return nil, &Failure{Code: codeNotSupported, Message: "client uses authorization identity, but it is not supported"}
	default:
		return nil, malformed("Unexpected attribute %s in client-first-message.", quoteByte(p.peek()))
	}
	p.skip()
	return p.rest, nil
}

// readClientFirstBare returns the client's nonce. The user name is not looked at: the startup packet's counts.
func readClientFirstBare(bare []byte) (nonce []byte, err error) {
	p := attributes{bare}
	if p.peek() == 'm' {
		return nil, &Failure{Code: codeNotSupported, Message: "client requires an unsupported SCRAM extension"}
	}
	if _, err := p.value('n'); err != nil {
		return nil, err
	}
	if nonce, err = p.value('r'); err != nil {
		return nil, err
	}
	if len(nonce) == 0 {
		return nil, malformed("The nonce is empty.")
	}
	for _, c := range nonce {
		if !isPrintable(c) {
			return nil, &Failure{Code: codeProtocolViolation, Message: "non-printable characters in SCRAM nonce"}
		}
	}
	for len(p.rest) > 0 { // optional extensions
		if _, _, err := p.next(); err != nil {
			return nil, err
		}
	}
	return nonce, nil
}

// verifySCRAM answers client-final-message: with the server's own proof, or with a refusal.
func (x *Exchange) verifySCRAM(dst, message []byte) ([]byte, bool, error) {
	s := &x.scram
	proof, withoutProof, err := x.readClientFinal(message)
	if err != nil {
		return nil, false, err
	}
	s.authMessage = append(append(s.authMessage, ','), withoutProof...)

	signature := hmacSHA256(x.credential.storedKey[:], s.authMessage)
	var clientKey [sha256.Size]byte
	subtle.XORBytes(clientKey[:], proof[:], signature[:])
	storedKey := sha256.Sum256(clientKey[:])
	if subtle.ConstantTimeCompare(storedKey[:], x.credential.storedKey[:]) != 1 || x.doomed != "" {
		return nil, false, x.denied()
	}

	signature = hmacSHA256(x.credential.serverKey[:], s.authMessage)
	last := base64.StdEncoding.AppendEncode(append(make([]byte, 0, 64), "v="...), signature[:])
	return appendAuth(appendAuth(dst, authSASLFinal, last...), authOk), true, nil
}

// readClientFinal checks all of client-final-message but the proof.
func (x *Exchange) readClientFinal(message []byte) (proof [sha256.Size]byte, withoutProof []byte, err error) {
	s := &x.scram
	p := attributes{message}
	channel, err := p.value('c')
	if err != nil {
		return proof, nil, err
	}
	if string(channel) != s.channel {
		if s.plus {
			return proof, nil, &Failure{Code: codeInvalidAuthorization, Message: "SCRAM channel binding check failed"}
		}
		return proof, nil, &Failure{Code: codeProtocolViolation, Message: "unexpected SCRAM channel-binding attribute in client-final-message"}
	}
	nonce, err := p.value('r')
	if err != nil {
		return proof, nil, err
	}
	var attribute byte
	var value []byte
	for attribute != 'p' { // optional extensions come before the proof
		withoutProof = message[:len(message)-len(p.rest)-1]
		if attribute, value, err = p.next(); err != nil {
			return proof, nil, err
		}
	}
	if decodeKey(&proof, string(value)) != nil {
		return proof, nil, malformed("Malformed proof in client-final-message.")
	}
	if len(p.rest) > 0 {
		return proof, nil, malformed("Garbage found at the end of client-final-message.")
	}
	if subtle.ConstantTimeCompare(nonce, s.nonce) != 1 {
		return proof, nil, violation("invalid SCRAM response", "Nonce does not match.")
	}
	return proof, withoutProof, nil
}

// attributes reads a list of attributes: x=value,y=value.
type attributes struct {
	rest []byte
}

// peek is the next byte; 0, which no message contains, at the end.
func (p *attributes) peek() byte {
	if len(p.rest) == 0 {
		return 0
	}
	return p.rest[0]
}

// skip goes on by one byte. There must be one.
func (p *attributes) skip() { p.rest = p.rest[1:] }

// value reads the attribute that must be next.
func (p *attributes) value(attribute byte) ([]byte, error) {
	if p.peek() != attribute {
		return nil, malformed("Expected attribute \"%c\" but found %s.", attribute, quoteByte(p.peek()))
	}
	_, value, err := p.next()
	return value, err
}

// next reads any attribute.
func (p *attributes) next() (attribute byte, value []byte, err error) {
	attribute = p.peek()
	switch letter := attribute | 0x20; {
	case len(p.rest) == 0:
		return 0, nil, malformed("Attribute expected, but found end of string.")
	case letter < 'a' || letter > 'z':
		return 0, nil, malformed("Attribute expected, but found invalid character %s.", quoteByte(attribute))
	}
	p.skip()
	if p.peek() != '=' {
		return 0, nil, malformed("Expected character \"=\" for attribute \"%c\".", attribute)
	}
	p.skip()
	value, p.rest, _ = bytes.Cut(p.rest, []byte{','})
	return attribute, value, nil
}

// isPrintable is RFC 5802's word for ASCII without blanks and the comma.
func isPrintable(c byte) bool { return c > ' ' && c <= '~' && c != ',' }

// quoteByte shows one byte of the client's in a message.
func quoteByte(c byte) string {
	if c > ' ' && c <= '~' {
		return `"` + string(rune(c)) + `"`
	}
	return fmt.Sprintf(`"0x%02x"`, c)
}

// printable shows a few bytes of the client's in a message.
func printable(s []byte) string {
	out := bytes.Clone(s[:min(len(s), 30)])
	for i, c := range out {
		if c <= ' ' || c > '~' {
			out[i] = '?'
		}
	}
	return string(out)
}

func malformed(detail string, args ...any) *Failure {
	return violation("malformed SCRAM message", detail, args...)
}
