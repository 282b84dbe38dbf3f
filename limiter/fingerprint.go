package limiter

const (
	// readFor is how much of a statement its fingerprint is made of, in bytes.
	readFor = 4 << 10

	hashSeed  = 14695981039346656037 // FNV-1a, 64 bits (Fowler, Noll and Vo)
	hashPrime = 1099511628211
)

// FingerprintOf reads a statement. Constants, lists of them of any length, comments, blanks and upper case make no difference.
// It reads strings and comments as a server with standard_conforming_strings does; a statement that is read otherwise only
// lands in another class.
func FingerprintOf(sql []byte) Fingerprint {
	sql = sql[:min(len(sql), readFor)]
	h := hash(hashSeed)
	var last byte // what was taken in last
	take := func(c byte) {
		h = (h ^ hash(c)) * hashPrime
		last = c
	}
	blank, comma := false, false // seen, and not taken in yet
	inName := false              // a digit belongs to it
	for i := 0; i < len(sql); {
		c := sql[i]
		kind := kinds[c]
		inName = inName && !blank
		switch {
		case kind == blankByte:
			blank = true
			i++
			continue
		case c == '-' && next(sql, i) == '-':
			i = lineEnd(sql, i)
			blank = true
			continue
		case c == '/' && next(sql, i) == '*':
			i = blockEnd(sql, i)
			blank = true
			continue
		case kind == digitByte && !inName, c == '\'':
			if c == '\'' {
				i = stringEnd(sql, i)
			} else {
				i = numberEnd(sql, i)
			}
			if last == '?' && comma || last == '?' && !comma && !blank { // one more of a list, or of what belongs together
				comma, blank = false, false
				continue
			}
			c, kind = '?', otherByte
		case c == ',' && last == '?' && !comma:
			comma = true
			i++
			continue
		default:
			i++
		}
		if comma {
			take(',')
			comma = false
		}
		if blank && kinds[last] == wordByte && (kinds[c] == wordByte || kinds[c] == digitByte) {
			take(' ')
		}
		blank = false
		inName = kind == wordByte || kind == digitByte
		take(lower(c))
	}
	if h == 0 {
		h = 1
	}
	return Fingerprint(h)
}

type hash uint64

const (
	otherByte = iota
	blankByte
	digitByte
	wordByte
)

// kinds are the kinds of bytes. Those of other alphabets count as letters, as they do in identifiers.
var kinds = func() (k [256]byte) {
	for c := range k {
		switch {
		case c == ' ' || c >= '\t' && c <= '\r':
			k[c] = blankByte
		case c >= '0' && c <= '9':
			k[c] = digitByte
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '$', c >= 0x80:
			k[c] = wordByte
		}
	}
	return k
}()

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func next(sql []byte, i int) byte {
	if i+1 < len(sql) {
		return sql[i+1]
	}
	return 0
}

func lineEnd(sql []byte, i int) int {
	for i < len(sql) && sql[i] != '\n' {
		i++
	}
	return i
}

// blockEnd is behind the comment at i; they nest.
func blockEnd(sql []byte, i int) int {
	depth := 0
	for i < len(sql) {
		switch {
		case sql[i] == '/' && next(sql, i) == '*':
			depth++
			i++
		case sql[i] == '*' && next(sql, i) == '/':
			depth--
			i++
		}
		i++
		if depth == 0 {
			break
		}
	}
	return min(i, len(sql))
}

// stringEnd is behind the string at i; a quote in it is doubled.
func stringEnd(sql []byte, i int) int {
	for i++; i < len(sql); i++ {
		if sql[i] == '\'' {
			if next(sql, i) != '\'' {
				return i + 1
			}
			i++
		}
	}
	return i
}

func numberEnd(sql []byte, i int) int {
	for i < len(sql) && (kinds[sql[i]] == digitByte || sql[i] == '.' || kinds[sql[i]] == wordByte && sql[i] != '$') {
		i++
	}
	return i
}
