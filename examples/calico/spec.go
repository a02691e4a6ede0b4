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
	err := json.Unmarshal(raw, into)
	errs := wrongFields("spec", raw, reflect.TypeOf(into).Elem())
	if !errors.Is(err, podweft.ErrInvalid) { // that one is among them, with the field's name
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// wrongFields are those that a type has no place for, and those whose own types refuse what they say. Names are compared as package json
// does, whatever their case.
func wrongFields(at string, raw json.RawMessage, t reflect.Type) (errs []error) {
	if of, ok := reflect.New(t).Interface().(json.Unmarshaler); ok {
		wrong, is := errors.AsType[*podweft.FieldError](of.UnmarshalJSON(raw))
		if !is {
			return nil
		}
		named := *wrong
		named.Field = at
		return []error{&named}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return wrongFields(at, raw, t.Elem())
	case reflect.Slice:
		var all []json.RawMessage
		_ = json.Unmarshal(raw, &all) // it has been decoded
		for i, one := range all {
			errs = append(errs, wrongFields(fmt.Sprintf("%s[%d]", at, i), one, t.Elem())...)
		}
	case reflect.Struct:
		var has map[string]json.RawMessage
		_ = json.Unmarshal(raw, &has)
		for _, name := range slices.Sorted(maps.Keys(has)) {
			field, known := t.FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, name) })
			if known {
				errs = append(errs, wrongFields(at+"."+name, has[name], field.Type)...)
				continue
			}
			remedy := "leave it out"
			if t == reflect.TypeFor[filterRule]() { // which without its condition is about everything
				remedy = "leave the rule out, or say it by cidr"
			}
			errs = append(errs, &podweft.FieldError{Field: at + "." + name, Problem: "is a field that we do not know", Remedy: remedy})
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

// asNumber is the number of an AS: 64512, "64512", or of four bytes "1.10" (RFC 5396). That one is in quotes: without them YAML takes it
// for a fraction, which is 1.1 as well.
type asNumber uint32

// UnmarshalJSON implements json.Unmarshaler. Its errors get the field's name from wrongFields.
func (n *asNumber) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	text, quoted := string(raw), raw[0] == '"'
	if quoted {
		if err := json.Unmarshal(raw, &text); err != nil {
			return err
		}
	}
	high, low, dotted := strings.Cut(text, ".")
	if dotted && !quoted {
		return &podweft.FieldError{Value: text, Problem: "is read as a fraction, in which 1.10 is 1.1", Remedy: "write it in quotes"}
	}
	bits := 32
	if dotted {
		bits = 16
	} else {
		high, low = "0", text
	}
	h, err := strconv.ParseUint(high, 10, 16)
	l, errLow := strconv.ParseUint(low, 10, bits)
	if err != nil || errLow != nil {
		return &podweft.FieldError{Value: text, Problem: "is no AS number", Remedy: "write one like 64512"}
	}
	*n = asNumber(h<<16 | l)
	return nil
}

// secret is a password. Calico names a Secret, which a file has none of: ours is the text.
type secret string

// UnmarshalJSON implements json.Unmarshaler. Its errors get the field's name from wrongFields.
func (s *secret) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return &podweft.FieldError{Problem: "is in a Secret, which we do not read", Remedy: "write the password itself"}
	}
	*s = secret(text)
	return nil
}
