#!/bin/sh
# scripts/say_digits.sh DIR: spoken digits by speech synthesis, DIR/DIGIT_VOICE_TAKE.wav, for the recogniser of
# `hdlua -m compare_audio --also DIR`: voices, accents, tempi and pitches beside those of a few people.
# Installs espeak-ng, flite and sox where they are missing.
set -e
out=${1:?usage: say_digits.sh DIR}
for tool in espeak-ng flite sox; do
    command -v "$tool" >/dev/null || apt-get install -y espeak-ng flite sox
done
mkdir -p "$out"

# Without the silence at both ends.
trim() { sox "$1" "$2" silence 1 0.01 1% reverse silence 1 0.01 1% reverse; }

raw=$(mktemp --suffix=.wav)
digit=0
for word in zero one two three four five six seven eight nine; do
    take=0
    for accent in en-gb en-us en-gb-scotland en-gb-x-gbclan en-gb-x-rp en-gb-x-gbcwmd en-029; do
        for voice in m1 m3 m4 m7 f1 f2 f4 f5 Andy Denis klatt3 Michael Storm Alicia; do
            espeak-ng -v "$accent+$voice" -p $((take * 37 % 70 + 15)) -s $((take * 53 % 90 + 120)) -w "$raw" "$word"
            trim "$raw" "$out/${digit}_espeak_$take.wav"
            take=$((take + 1))
        done
    done
    take=0
    for voice in awb rms slt kal16; do
        for stretch in 0.8 1.0 1.25; do
            for pitch in 90 115 150 200; do
                flite -voice $voice --setf duration_stretch=$stretch --setf int_f0_target_mean=$pitch -t $word -o "$raw"
                trim "$raw" "$out/${digit}_flite_$take.wav"
                take=$((take + 1))
            done
        done
    done
    digit=$((digit + 1))
done
rm -f "$raw"
