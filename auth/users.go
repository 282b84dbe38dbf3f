package auth

import (
	"cmp"
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
)

// What a SCRAM secret has when nothing says otherwise, as in PostgreSQL.
const (
	defaultIterations = 4096
	defaultSaltLength = 16 // bytes
)

// Key makes the salts of unknown users and of plain-text secrets: the same for the same name as long as the key is the
// same, and not to be told from random without it.
//
// Anybody is shown such salts, before any proof, and may try guesses at the key against them, billions a second. So a key
// comes from random bytes, and never from a password or another secret that somebody could guess.
type Key struct {
	secret *[32]byte
}

// Format prints stars whatever the verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(mask)) }

// NewKey returns a random key.
func NewKey() Key {
	k := Key{new([32]byte)}
	_, _ = rand.Read(k.secret[:]) // never fails: it ends the process instead
	return k
}

// KeyFrom derives a key from random bytes that were made for this and nothing else. Processes that share them give the same
// salts, so that asking several of them, or one before and after a restart, tells nothing either. Without any the key is random.
func KeyFrom(random []byte) Key {
	if len(random) == 0 {
		return NewKey()
	}
	sum := hmacSHA256(random, []byte("weir mock authentication"))
	return Key{&sum}
}

// derive returns bytes for one use and one user, up to 255 of SHA-256's blocks.
func (k Key) derive(use, user string, length int) []byte {
	out := make([]byte, 0, length+sha256.Size)
	for block := byte(1); len(out) < length; block++ {
		mac := hmac.New(sha256.New, k.secret[:])
		mac.Write([]byte{block})
		mac.Write([]byte(use))
		mac.Write([]byte{0})
		mac.Write([]byte(user))
		out = mac.Sum(out)
	}
	return out[:length]
}

// Users is who may log in, with one method. It never changes: a reload makes a new one, and logins that have begun
// finish with the old. It is safe for concurrent use.
type Users struct {
	method      *method
	key         Key
	anyone      bool // trust without a list of users
	credentials map[string]*credential
	shapes      shapes
}

// credential is a secret in the form its method needs.
type credential struct {
	kind     Kind
	unusable string // why this user can never log in; then the rest is empty

	// Verifier
	iterations           int
	salt                 []byte
	challenge            string // ",s=<salt>,i=<iterations>", the end of SCRAM's server-first-message
	storedKey, serverKey [32]byte

	// MD5Hash: the hexadecimal digits. PlainText: digest of the password, so that all comparisons are of one length.
	hash [md5Digits]byte
}

// NewUsers makes the table for one method. Plain text is turned into what the method needs here, once: for SCRAM that
// is about a millisecond of arithmetic for each user who has it.
//
// A secret that is of no use with the method is no error (Method.Usable tells): that user is refused like an unknown
// one. Without any users, trust lets in everyone and the other methods nobody.
func NewUsers(m Method, key Key, secrets map[string]Secret) (*Users, error) {
	row, err := m.row()
	if err != nil {
		return nil, err
	}
	if key == (Key{}) {
		return nil, errors.New("auth: the key is missing: expected that of NewKey or KeyFrom")
	}
	u := &Users{
		method:      row,
		key:         key,
		anyone:      row.name == Trust && len(secrets) == 0,
		credentials: make(map[string]*credential, len(secrets)),
	}
	for user, secret := range secrets {
		c, err := u.keep(user, secret)
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", user, err)
		}
		u.credentials[user] = c
	}
	u.shapes = shapesOf(u.credentials, shape{kind: row.plain, iterations: defaultIterations, saltLength: defaultSaltLength})
	return u, nil
}

// Costly reports whether a login may take a millisecond of arithmetic, and not microseconds: a password in plain text is
// compared with a SCRAM verifier by doing all of SCRAM's iterations.
func (u *Users) Costly() bool { return u.method.name == Password }

// keep turns a secret into what the method needs.
func (u *Users) keep(user string, s Secret) (*credential, error) {
	if why := u.method.unusable(s.Kind()); why != "" {
		return &credential{unusable: why}, nil
	}
	if u.method.name == Trust {
		return &credential{}, nil
	}
	switch s.Kind() {
	case Verifier:
		v := s.sealed.parsed.verifier
		c := newVerifier(v.salt, v.iterations)
		c.storedKey, c.serverKey = v.storedKey, v.serverKey
		return c, nil
	case MD5Hash:
		c := &credential{kind: MD5Hash}
		copy(c.hash[:], s.sealed.parsed.md5)
		return c, nil
	default:
		return u.keepPlain(user, s.sealed.parsed.plain)
	}
}

func (u *Users) keepPlain(user, password string) (*credential, error) {
	switch u.method.plain {
	case Verifier:
		c := newVerifier(u.key.derive("salt", user, defaultSaltLength), defaultIterations)
		salted, err := saltedPassword(password, c.salt, c.iterations)
		if err != nil {
			return nil, err
		}
		clientKey := hmacSHA256(salted, []byte("Client Key"))
		c.storedKey = sha256.Sum256(clientKey[:])
		c.serverKey = hmacSHA256(salted, []byte("Server Key"))
		return c, nil
	case MD5Hash:
		return &credential{kind: MD5Hash, hash: md5Hash(password, user)}, nil
	default:
		return &credential{kind: PlainText, hash: u.digest(saslprep(password))}, nil
	}
}

// newVerifier is a verifier without its keys.
func newVerifier(salt []byte, iterations int) *credential {
	return &credential{
		kind:       Verifier,
		iterations: iterations,
		salt:       salt,
		challenge:  ",s=" + base64.StdEncoding.EncodeToString(salt) + ",i=" + strconv.Itoa(iterations),
	}
}

// digest is a plain-text password as it is kept for the method password.
func (u *Users) digest(password string) [32]byte {
	return hmacSHA256(u.key.secret[:], []byte("digest\x00"+password))
}

// Begin starts a login. It does the same work whether or not it knows the user: the mock secret that an unknown user
// would get is always computed.
func (u *Users) Begin(user string, binding Binding) *Exchange {
	x := &Exchange{users: u, user: user, binding: binding}
	u.mock(&x.mock, user)

	known, ok := u.credentials[user]
	switch {
	case !ok && !u.anyone:
		x.doomed = "there is no such user"
	case ok:
		x.doomed = known.unusable
	}
	x.credential = known
	if x.doomed != "" || !ok {
		x.credential = &x.mock
	}
	x.proof = u.method.proofs[x.credential.kind]
	return x
}

// mock makes up the secret of an unknown user. It looks like the secret of some real one: which, the name decides, in
// proportion to how many have such a secret.
func (u *Users) mock(c *credential, user string) {
	seed := u.key.derive("secret", user, sha256.Size)
	shape := u.shapes.pick(binary.BigEndian.Uint64(seed))
	if shape.kind == Verifier {
		*c = *newVerifier(u.key.derive("salt", user, shape.saltLength), shape.iterations)
	}
	c.kind = shape.kind
	copy(c.storedKey[:], seed)
	copy(c.serverKey[:], seed)
	hex.Encode(c.hash[:], seed[:md5.Size])
}

// shape is all that a client can see of a secret before it has proved anything.
type shape struct {
	kind       Kind
	iterations int
	saltLength int
}

func (a shape) compare(b shape) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.iterations, b.iterations), cmp.Compare(a.saltLength, b.saltLength))
}

// shapes are those of all users who can log in, with how many have each.
type shapes struct {
	shapes []shape
	upTo   []uint64 // users with this shape or one before it; ascending
}

func shapesOf(credentials map[string]*credential, fallback shape) shapes {
	count := map[shape]uint64{}
	for _, c := range credentials {
		if c.unusable == "" {
			count[shape{c.kind, c.iterations, len(c.salt)}]++
		}
	}
	if len(count) == 0 {
		count[fallback] = 1
	}
	var s shapes
	var total uint64
	for _, one := range slices.SortedFunc(maps.Keys(count), shape.compare) {
		total += count[one]
		s.shapes, s.upTo = append(s.shapes, one), append(s.upTo, total)
	}
	return s
}

// pick takes a fraction of 2⁶⁴.
func (s shapes) pick(fraction uint64) shape {
	nth, _ := bits.Mul64(fraction, s.upTo[len(s.upTo)-1])
	i, _ := slices.BinarySearch(s.upTo, nth+1)
	return s.shapes[i]
}

// saltedPassword is the slow part of SCRAM: the password, prepared and stretched.
func saltedPassword(password string, salt []byte, iterations int) ([]byte, error) {
	return pbkdf2.Key(sha256.New, saslprep(password), salt, iterations, sha256.Size)
}

// md5Hash is md5(password + user) in hexadecimal digits.
func md5Hash(password, user string) (digits [md5Digits]byte) {
	sum := md5.Sum([]byte(password + user))
	hex.Encode(digits[:], sum[:])
	return digits
}

func hmacSHA256(key, message []byte) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, key)
	mac.Write(message)
	mac.Sum(sum[:0])
	return sum
}
