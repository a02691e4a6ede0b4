package calico

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/podweft/podweft"
)

// readSpec decodes what an object of Calico's says. A field that we do not know is an error, at whatever depth: what it says would not be
// so, and nobody would know.
func readSpec(raw json.RawMessage, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return err
	}
	return errors.Join(unknownFields("spec", raw, reflect.TypeOf(into).Elem())...)
}

// unknownFields are those that a type has no place for. Names are compared as package json does, whatever their case.
func unknownFields(at string, raw json.RawMessage, t reflect.Type) (errs []error) {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return unknownFields(at, raw, t.Elem())
	case reflect.Slice:
		var all []json.RawMessage
		_ = json.Unmarshal(raw, &all) // it has been decoded
		for i, one := range all {
			errs = append(errs, unknownFields(fmt.Sprintf("%s[%d]", at, i), one, t.Elem())...)
		}
	case reflect.Struct:
		var has map[string]json.RawMessage
		_ = json.Unmarshal(raw, &has)
		for _, name := range slices.Sorted(maps.Keys(has)) {
			field, known := t.FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, name) })
			if known {
				errs = append(errs, unknownFields(at+"."+name, has[name], field.Type)...)
			} else {
				errs = append(errs, &podweft.FieldError{Field: at + "." + name, Problem: "is a field that we do not know", Remedy: "leave it out"})
			}
		}
	}
	return errs
}

// fixed is an error unless a field of Calico's has one of the values that mean what we do anyway. Not to be there is one.
func fixed[T any](field string, value *T, remedy string, fine ...T) error {
	if value == nil || slices.ContainsFunc(fine, func(f T) bool { return reflect.DeepEqual(f, *value) }) {
		return nil
	}
	return &podweft.FieldError{Field: field, Value: *value, Problem: "is not what we can do", Remedy: remedy}
}

// asNumber is the number of an AS: 64512, "64512", or of four bytes "1.10" (RFC 5396).
type asNumber uint32

// UnmarshalJSON implements json.Unmarshaler.
func (n *asNumber) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	text := strings.Trim(string(raw), `"`)
	high, low, dotted := strings.Cut(text, ".")
	bits := 32
	if dotted {
		bits = 16
	} else {
		high, low = "0", text
	}
	h, err := strconv.ParseUint(high, 10, 16)
	l, errLow := strconv.ParseUint(low, 10, bits)
	if err != nil || errLow != nil {
		return &podweft.FieldError{Field: "AS number", Value: text, Problem: "is none", Remedy: "write one like 64512"}
	}
	*n = asNumber(h<<16 | l)
	return nil
}

// secret is a password. Calico names a Secret, which a file has none of: ours is the text.
type secret string

// UnmarshalJSON implements json.Unmarshaler.
func (s *secret) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return &podweft.FieldError{Field: "password", Problem: "is in a Secret, which we do not read", Remedy: "write the password itself"}
	}
	*s = secret(text)
	return nil
}
