package forge

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"time"
)

// ExpiryOf reads the exp claim of any JWT, whatever its algorithm: Forge's OAuth tokens are opaque but for it, and a JWT
// library refuses algorithms that it does not know. ok is false for what is no JWT, has no exp, or one that no clock shows.
func ExpiryOf(token string) (expiry time.Time, ok bool) {
	_, rest, found := strings.Cut(token, ".")
	payload, _, alsoFound := strings.Cut(rest, ".")
	if !found || !alsoFound {
		return time.Time{}, false
	}
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Expiry *float64 `json:"exp"` // RFC 7519: seconds, may have a fraction
	}
	if json.Unmarshal(decoded, &claims) != nil || claims.Expiry == nil || *claims.Expiry < 1 || *claims.Expiry > maxExpiry {
		return time.Time{}, false
	}
	seconds, fraction := math.Modf(*claims.Expiry)
	return time.Unix(int64(seconds), int64(fraction*1e9)).UTC(), true
}

// maxExpiry is the end of the year 9999: a later one is in another unit than seconds.
const maxExpiry = 253402300799
